"""``docs/commands.md``: the help of every command."""

from __future__ import annotations

from collections.abc import Iterator

import click

from mmbuild import cli

_WIDTH = 80  # as on a terminal; more does not fit on the site
HEAD = """\
# Commands

<!-- Written by tools/make_docs.py from the commands' own help; change it there. -->

`mmbuild --help` lists the commands, `mmbuild COMMAND --help` prints what is below. For completion in bash, add
`eval "$(_MMBUILD_COMPLETE=bash_source mmbuild)"` to `~/.bashrc`; `mmbuild --help` has the lines for zsh and fish.

Options have the same name in all commands:

- `--json` prints JSON instead of text.
- `-o`, `--output` writes a file.
- `--exit-code` changes the exit status if something differs or is to be built: to 3 for `plan` and `ci diff`, to 1
  for `diff` and `compat`.
- `--offline` does not contact the hub.
- `-q`, `--quiet` prints only results and errors: for `apply` the engine directories and failures, for `plan` the
  counts. Progress, notes and warnings about recipes to build are left out; an error keeps its hint.
- `-v`, `--verbose` prints more: `apply` the store, cached results and the log lines of running actions, `plan` every
  change, input and key of each action.

`-q` and `-v` may be written before the command or after it. Earlier names of options (`--out`, `--detailed-exitcode`,
`--format json`, `--max-tokens`, `compat --check`) still work and print a note with the current one.

BUILD is the directory of an engine, or its name below `--build-dir`. RECIPE is a file, or a directory that stands for
the recipes directly in it.
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
