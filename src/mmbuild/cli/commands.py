"""The classes of all commands and options: what every command accepts, and old spellings that still work."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

from mmbuild.cli.output import print_note
from mmbuild.cli.verbosity import Verbosity, set_verbosity

F = TypeVar("F", bound=Callable[..., Any])


class Option(click.Option):
    """An option that may have had other spellings.

    These work as before, are not listed, and a line on standard error gives the current spelling.

    Args:
        old: Earlier names of the option.
        moved: Earlier values that are options of their own now: value -> the option's parameter.
    """

    def __init__(
        self,
        *args: Any,
        old: Sequence[str] = (),
        moved: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.old = tuple(old)
        self.moved = dict(moved or {})

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """See click; old names are parsed into fields of their own, so that it is known which one was used."""
        super().add_to_parser(parser, ctx)
        for name in self.old:
            action = "store_const" if self.is_flag else "store"
            parser.add_option(
                obj=self, opts=[name], dest=_field(name), action=action, nargs=self.nargs, const=True
            )

    def handle_parse_result(
        self, ctx: click.Context, opts: Mapping[str, Any], args: list[str]
    ) -> tuple[Any, list[str]]:
        """See click; old names and values are replaced by the current ones."""
        if isinstance(opts, dict):
            for name in self.old:
                if _field(name) in opts:
                    opts.setdefault(str(self.name), opts.pop(_field(name)))
                    _note_renamed(name, "/".join(self.opts))
            if (parameter := self.moved.get(opts.get(str(self.name), ""))) is not None:
                value = opts.pop(str(self.name))
                opts[parameter] = True
                current = next(one for one in ctx.command.params if one.name == parameter)
                _note_renamed(f"{max(self.opts, key=len)} {value}", "/".join(current.opts))
        return super().handle_parse_result(ctx, opts, args)


def _field(name: str) -> str:
    return f"old {name}"


def _note_renamed(old: str, current: str) -> None:
    print_note(f"note: `{old}` is now `{current}`")


def option(*names: str, **attributes: Any) -> Callable[[F], F]:
    """``click.option`` for an :class:`Option`."""
    return click.option(*names, cls=Option, **attributes)


class Command(click.Command):
    """A command with ``-q`` and ``-v``.

    Args:
        verbose: Help of ``-v``; without it, the command accepts ``-v`` and has nothing more to print.
    """

    def __init__(self, *args: Any, verbose: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += verbosity_options(verbose)


class Group(click.Group):
    """A group of commands: accepts ``-q`` and ``-v`` before its commands too, and lists them with whole sentences."""

    command_class = Command
    group_class = type

    def __init__(self, *args: Any, verbose: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += verbosity_options(verbose)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """See click, which would cut sentences to one line."""
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, _first_sentence(command)) for name, command in found if command])


def _first_sentence(command: click.Command) -> str:
    first, _, _ = inspect.cleandoc(command.help or "").partition("\n\n")
    return " ".join(first.split()).removesuffix(".")


def command(name: str, *, verbose: str = "") -> Callable[[Callable[..., Any]], Command]:
    """``click.command`` for a :class:`Command`."""
    return click.command(name, cls=Command, verbose=verbose)


def group(name: str) -> Callable[[Callable[..., Any]], Group]:
    """``click.group`` for a :class:`Group`."""
    return click.group(name, cls=Group)


def verbosity_options(verbose: str) -> list[click.Parameter]:
    """``-q`` and ``-v``; ``verbose`` is the help of ``-v``, which is not listed without it."""
    common: dict[str, Any] = {"is_flag": True, "expose_value": False, "is_eager": True, "callback": _remember}
    return [
        click.Option(["-q", "--quiet"], help="Print only results and errors.", **common),
        click.Option(["-v", "--verbose"], help=verbose, hidden=not verbose, **common),
    ]


def _remember(ctx: click.Context, parameter: click.Parameter, given: bool) -> None:
    if given:
        set_verbosity(ctx, Verbosity[str(parameter.name).upper()])
