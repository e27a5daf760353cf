"""Options that several verbs share."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from mmbuild.base.formatting import size_text

if TYPE_CHECKING:
    from mmbuild.backends.engine_dir.contents import Progress
    from mmbuild.backends.engine_dir.description import Description

F = TypeVar("F", bound=Callable[..., Any])

_REDRAW_SECONDS = 0.2


def recipes(function: F) -> F:
    """The recipe files and how to load them: ``recipes``, and :func:`loading_options`."""
    return click.argument(
        "recipes", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RECIPE..."
    )(loading_options(function))


def loading_options(function: F) -> F:
    """How recipes are loaded: ``overrides``, ``offline``, ``allow_outside``."""
    for add in reversed(
        (
            click.option(
                "--set",
                "overrides",
                multiple=True,
                metavar="KEY=VALUE",
                help="Lay a value over every recipe.",
            ),
            click.option("--offline", is_flag=True, help="Ask no hub for anything."),
            click.option(
                "--allow-outside", is_flag=True, default=None, help="Accept paths outside the project's root."
            ),
        )
    ):
        function = add(function)
    return function


def locked_option(function: F) -> F:
    """Whether recipes are built as their locks say: ``locked``."""
    return click.option(
        "--locked", is_flag=True, help="Refuse whatever is not as RECIPE.lock says (`mmbuild lock`)."
    )(function)


def location_options(function: F) -> F:
    """Where things go: ``store``, ``build_dir``."""
    function = click.option(
        "--build-dir",
        type=click.Path(path_type=Path),
        default=Path("build"),
        show_default=True,
        help="Where the engine directories go.",
    )(function)
    return store(function)


APPLY_OPTIONS: Mapping[str, Callable[[Any], Any]] = {
    "jobs": click.option(
        "-j", "--jobs", type=click.IntRange(min=1), help="Actions at once (default: one for each core)."
    ),
    "keep_going": click.option(
        "-k", "--keep-going", is_flag=True, help="After a failure, run what does not depend on it."
    ),
    "ignore_estimates": click.option(
        "--ignore-estimates", is_flag=True, help="Start even if memory or disk look too small."
    ),
    "paranoid": click.option(
        "--paranoid",
        is_flag=True,
        help="Read every file of the store before it is used, whatever its times say.",
    ),
    "executor": click.option(
        "--executor",
        type=click.Choice(["local", "ray"]),
        default="local",
        show_default=True,
        help="Where actions run: this machine, or the nodes of a Ray cluster (docs/cluster.md).",
    ),
    "address": click.option(
        "--address",
        metavar="HOST:PORT",
        help="Address of the cluster, or `auto` (default: $RAY_ADDRESS, else a Ray of this machine for this run).",
    ),
}
"""Command-line options by the field of :class:`~mmbuild.core.execution.options.ApplyOptions` that they set."""


def applying(*names: str) -> Callable[[F], F]:
    """How a plan is applied: ``applied``, an ``ApplyOptions`` from the options ``names`` (none: all of them)."""
    chosen = {name: APPLY_OPTIONS[name] for name in names or APPLY_OPTIONS}

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            from mmbuild.core.execution.options import ApplyOptions

            fields = {name: kwargs.pop(name) for name in chosen}
            if fields.get("address") is not None and fields["executor"] != "ray":
                raise click.UsageError("--address is for --executor ray")
            return function(*args, applied=ApplyOptions(**fields), **kwargs)

        decorated: Any = wrapped
        for add in reversed(chosen.values()):
            decorated = add(decorated)
        return cast(F, decorated)

    return decorate


def store(function: F) -> F:
    """The store: ``store``, None for the default one."""
    return click.option(
        "--store",
        type=click.Path(path_type=Path),
        help="Directory of the store (default: $MMBUILD_STORE, else ~/.cache/mmbuild/store).",
    )(function)


def check_option(function: F) -> F:
    """Whether an engine directory is compared with its manifest: ``check``."""
    return click.option(
        "--check/--no-check",
        default=True,
        show_default=True,
        help="Compare the engine's files with its manifest.json before anything of it is used.",
    )(function)


def checked_engine(build: Path, *, check: bool, runs: bool = True) -> Description:
    """What an engine directory describes, its files checked first.

    Args:
        build: The engine directory.
        check: Whether its files are compared with its manifest.
        runs: Whether the engine will be loaded. Otherwise large files are not hashed, a missing manifest is a
            warning, and the description may leave out the LLM's sizes.

    Raises:
        LayoutError, ContentsError: As :func:`mmbuild.backends.engine_dir.contents.check`,
            :func:`mmbuild.backends.engine_dir.description.read` and
            :func:`mmbuild.backends.engine_dir.description.require_ranks`.
    """
    from mmbuild.backends.engine_dir import contents
    from mmbuild.backends.engine_dir import description as layout
    from mmbuild.cli.output import print_status

    if check:
        doubt = contents.check(build, loads=runs, progress=_hashing(build) if sys.stderr.isatty() else None)
        if doubt is not None:
            print_status(f"warning: {doubt.message} [{doubt.code}]")
            print_status(f"  hint: {doubt.hint}")
    description = layout.read(build, whole_llm=runs)
    if runs:
        layout.require_ranks(build, description)
    return description


def _hashing(build: Path) -> Progress:
    """Shows on a terminal how far the hashing of a build's large files is."""
    from mmbuild.base.terminal_text import one_line, raw

    shown = 0.0

    def progress(done: int, total: int) -> None:
        nonlocal shown
        if done < total and time.monotonic() - shown < _REDRAW_SECONDS:
            return
        shown = time.monotonic()
        text = (
            f"checking {one_line(str(build))}: {size_text(done)} of {size_text(total)}"
            if done < total
            else ""
        )
        raw(sys.stderr).write(f"\r\x1b[K{text}")
        sys.stderr.flush()

    return progress


def refuse_others(context: click.Context, taken: frozenset[str] | None, verb: str) -> None:
    """Refuse options that the backend of an engine has no counterpart for; ``taken`` None means that it has all.

    Raises:
        UsageError: MM705.
    """
    from mmbuild.base.errors import UsageError

    others = [name for name in given_options(context) if taken is not None and name not in taken]
    if others:
        raise UsageError(
            f"{', '.join(others)}: `mmbuild {verb}` has no such options for engines of this backend",
            code="MM705",
            hint="leave them out",
        )


def given_options(context: click.Context) -> tuple[str, ...]:
    """Options that were written on the command line, by their long names."""
    written = click.core.ParameterSource.COMMANDLINE
    return tuple(
        max(parameter.opts, key=len)
        for parameter in context.command.params
        if isinstance(parameter, click.Option)
        and context.get_parameter_source(str(parameter.name)) is written
    )
