"""The classes of all commands and options: what every command accepts, and old spellings that still work."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import click

from mmbuild.base.diagnostics import diagnostics_of, render_json
from mmbuild.base.errors import MmbuildError
from mmbuild.base.output_streams import output_used
from mmbuild.cli.output import ResumableInterruptError, coded, print_note
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
        resumes: Whether it keeps what it finished before Ctrl-C and continues when it is run again.
        json_lines: Whether ``--json`` prints an object per line, so that an error may follow others.
    """

    def __init__(
        self, *args: Any, verbose: str = "", resumes: bool = False, json_lines: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.params += verbosity_options(verbose)
        self.resumes = resumes
        self.json_lines = json_lines

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See click; an unknown option is answered with the one that is meant, or with the recipe's key.

        Raises:
            click.UsageError: As click raises it.
        """
        with _options_explained(ctx, args):
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """See click; with ``--json``, an error with a code is also printed as JSON, instead of a result.

        Ctrl-C says whether the command can be continued.

        Raises:
            ResumableInterruptError: Ctrl-C in a command that resumes.
        """
        try:
            return super().invoke(ctx)
        except (MmbuildError, OSError, MemoryError) as error:
            # A result that was printed says itself what is wrong, and a second document could not be parsed.
            if ctx.params.get("as_json") and (self.json_lines or not output_used()):
                click.echo(render_json(diagnostics_of(coded(error)), indent=None))
            raise
        except KeyboardInterrupt as stop:
            if self.resumes:
                raise ResumableInterruptError from stop
            raise


@contextmanager
def _options_explained(ctx: click.Context, given: Sequence[str]) -> Iterator[None]:
    given = list(given)
    try:
        yield
    except click.NoSuchOption as error:
        from mmbuild.cli.other_words import unknown_option

        raise click.UsageError(unknown_option(error.option_name, given, ctx.command), ctx) from None


class Group(click.Group):
    """A group of commands: accepts ``-q`` and ``-v`` before its commands too, and lists them with whole sentences."""

    command_class = Command
    group_class = type

    def __init__(self, *args: Any, verbose: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += verbosity_options(verbose)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See click and :meth:`Command.parse_args`."""
        with _options_explained(ctx, args):
            return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """See click; an unknown command is answered with the one that is meant.

        Raises:
            click.UsageError: There is no such command.
        """
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            if args[0].startswith("-"):
                raise
            raise click.UsageError(self.unknown_command(ctx, args[0]), ctx) from None

    def unknown_command(self, ctx: click.Context, word: str) -> str:
        """The error for a ``word`` that is not a command of this group."""
        from mmbuild.cli.other_words import unknown_command_of_group

        return unknown_command_of_group(ctx.command_path, word, self.list_commands(ctx))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """See click, which would cut sentences to one line."""
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, _first_sentence(command)) for name, command in found if command])


def _first_sentence(command: click.Command) -> str:
    first, _, _ = inspect.cleandoc(command.help or "").partition("\n\n")
    return " ".join(first.split()).removesuffix(".")


def command(
    name: str, *, verbose: str = "", resumes: bool = False, json_lines: bool = False
) -> Callable[[Callable[..., Any]], Command]:
    """``click.command`` for a :class:`Command`."""
    return click.command(name, cls=Command, verbose=verbose, resumes=resumes, json_lines=json_lines)


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
