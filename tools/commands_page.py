"""``docs/commands.md``: the help of every command."""

from __future__ import annotations

from collections.abc import Iterator

import click

from mmbuild import cli

_WIDTH = 100
HEAD = """\
# Commands

<!-- Written by tools/make_docs.py from the commands' own help; change it there. -->

`mmbuild --help` lists the commands, `mmbuild COMMAND --help` prints what is below.
"""


def commands_page() -> str:
    """The page."""
    parts = [HEAD]
    group = cli.command_group()
    with click.Context(group, info_name="mmbuild", **group.context_settings) as root:
        for title, verbs in cli.GROUPS.items():
            parts.append(f"\n## {title}\n")
            for name in verbs:
                command = group.get_command(root, name)
                assert command is not None
                for words, one in _with_subcommands(root, name, command):
                    parts.append(f"\n### {words}\n\n```text\n{_help(root, words, one)}\n```\n")
    return "".join(parts)


def _with_subcommands(
    root: click.Context, name: str, command: click.Command
) -> Iterator[tuple[str, click.Command]]:
    yield f"mmbuild {name}", command
    if isinstance(command, click.Group):
        context = click.Context(command, parent=root, info_name=name)
        for below in command.list_commands(context):
            one = command.get_command(context, below)
            assert one is not None
            yield f"mmbuild {name} {below}", one


def _help(root: click.Context, words: str, command: click.Command) -> str:
    settings = {"terminal_width": _WIDTH, "max_content_width": _WIDTH, "color": False}
    context = click.Context(command, info_name=words, help_option_names=root.help_option_names, **settings)
    return command.get_help(context).rstrip()
