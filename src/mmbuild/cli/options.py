"""Options that several commands share."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from mmbuild.cli.commands import option

if TYPE_CHECKING:
    from mmbuild.backends.engine_dir.description import Description

F = TypeVar("F", bound=Callable[..., Any])

PLAN_OPTIONS: Mapping[str, Callable[[Any], Any]] = {
    "overrides": click.option(
        "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a value in every recipe."
    ),
    "offline": click.option("--offline", is_flag=True, help="Do not contact the hub."),
    "allow_outside": click.option(
        "--allow-outside", is_flag=True, default=None, help="Accept paths outside the project's root."
    ),
    "locked": click.option(
        "--locked", is_flag=True, help="Refuse anything that differs from RECIPE.lock (`mmbuild lock`)."
    ),
}
"""Field of :class:`~mmbuild.pipeline.options.PlanOptions` -> the command-line option that sets it."""

locked_option = PLAN_OPTIONS["locked"]
recipe_paths = click.argument(
    "recipes", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RECIPE..."
)


def planning(*names: str) -> Callable[[F], F]:
    """Add ``request``, a ``PlanOptions`` built from the parameter ``recipes`` and the command's plan options.

    Adds the options ``names``; the command may add others of :data:`PLAN_OPTIONS` elsewhere in its ``--help``.
    """

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def wrapped(*args: Any, recipes: tuple[Path, ...], **kwargs: Any) -> Any:
            from mmbuild.pipeline.options import PlanOptions

            fields = {name: kwargs.pop(name) for name in PLAN_OPTIONS if name in kwargs}
            return function(*args, request=PlanOptions(recipes, **fields), **kwargs)

        return cast(F, _with_options(wrapped, [PLAN_OPTIONS[name] for name in names]))

    return decorate


def recipes(function: F) -> F:
    """Add the argument ``recipes`` and the options for loading them, as ``request``: see :func:`planning`."""
    return recipe_paths(planning("overrides", "offline", "allow_outside")(function))


def build_dir_option(text: str) -> Callable[[F], F]:
    """Add ``build_dir``, described by ``text``."""
    return click.option(
        "--build-dir", type=click.Path(path_type=Path), default=Path("build"), show_default=True, help=text
    )


def location_options(function: F) -> F:
    """Add ``store`` and ``build_dir``."""
    return store(build_dir_option("Directory for the engine directories.")(function))


def json_option(detail: str = "") -> Callable[[F], F]:
    """Add ``as_json``; ``detail`` says what the JSON holds or how it is written."""
    return click.option(
        "--json", "as_json", is_flag=True, help=f"Print JSON: {detail}." if detail else "Print JSON."
    )


def output_option(text: str, *, old: Sequence[str] = ()) -> Callable[[F], F]:
    """Add ``output``, the path of a file that the command writes, described by ``text``."""
    path = click.Path(path_type=Path)
    return option("-o", "--output", type=path, help=text, old=old)


def unwritable(path: Path | None) -> tuple[str, str] | None:
    """Why a file that a command writes at its end cannot be written, as message and hint; None: nothing is known."""
    if path is None:
        return None
    if not path.parent.is_dir():
        return f"`{path.parent}` is not a directory, so `{path}` cannot be written", "create it"
    if path.is_dir():
        return (
            f"`{path}` is a directory, so it cannot be written",
            f"name a file, such as `{path / 'result'}`",
        )
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        return (
            f"`{path}` cannot be written: permission denied",
            "name a file elsewhere, or change the permissions",
        )
    return None


def exit_code_option(text: str, *, old: Sequence[str] = ()) -> Callable[[F], F]:
    """Add ``exit_code``: whether a difference changes the exit status; ``text`` says to what."""
    return option("--exit-code", is_flag=True, help=text, old=old)


def max_new_tokens_option(text: str, kind: Any = int, **attributes: Any) -> Callable[[F], F]:
    """Add ``max_new_tokens``. OpenAI's and vLLM's word for it, ``--max-tokens``, is accepted too."""
    return option("--max-new-tokens", type=kind, help=text, old=("--max-tokens",), **attributes)


APPLY_OPTIONS: Mapping[str, Callable[[Any], Any]] = {
    "jobs": click.option(
        "-j",
        "--jobs",
        type=click.IntRange(min=1),
        help="Number of actions to run at once (default: one per core).",
    ),
    "keep_going": click.option(
        "-k",
        "--keep-going",
        is_flag=True,
        help="After a failure, keep running actions that do not depend on it.",
    ),
    "ignore_estimates": click.option(
        "--ignore-estimates", is_flag=True, help="Start even if memory or disk space seems too small."
    ),
    "paranoid": click.option(
        "--paranoid",
        is_flag=True,
        help="Hash every file of the store before use, even if its timestamps are unchanged.",
    ),
    "executor": click.option(
        "--executor",
        type=click.Choice(["local", "ray"]),
        default="local",
        show_default=True,
        help="Where actions run: on this machine, or on the nodes of a Ray cluster (docs/cluster.md).",
    ),
    "address": click.option(
        "--address",
        metavar="HOST:PORT",
        help="Ray cluster address, or `auto` (default: $RAY_ADDRESS, else a local Ray for this run).",
    ),
}
"""Field of :class:`~mmbuild.core.execution.options.ApplyOptions` -> the command-line option that sets it."""


def applying(*names: str) -> Callable[[F], F]:
    """Add ``applied``, an ``ApplyOptions`` built from the options ``names`` (all if empty)."""
    chosen = {name: APPLY_OPTIONS[name] for name in names or APPLY_OPTIONS}

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            from mmbuild.core.execution.options import ApplyOptions

            fields = {name: kwargs.pop(name) for name in chosen}
            if fields.get("address") is not None and fields["executor"] != "ray":
                raise click.UsageError("--address requires --executor ray")
            return function(*args, applied=ApplyOptions(**fields), **kwargs)

        return cast(F, _with_options(wrapped, chosen.values()))

    return decorate


def _with_options(function: Any, options: Iterable[Callable[[Any], Any]]) -> Any:
    """``function`` with ``options``, listed by ``--help`` in this order."""
    return functools.reduce(lambda decorated, add: add(decorated), reversed(list(options)), function)


def store(function: F) -> F:
    """Add ``store``; None selects the default one."""
    return click.option(
        "--store",
        type=click.Path(path_type=Path),
        help="Store directory (default: $MMBUILD_STORE, else ~/.cache/mmbuild/store).",
    )(function)


def check_option(function: F) -> F:
    """Add ``check``: whether an engine directory is compared with its manifest."""
    return click.option(
        "--check/--no-check",
        default=True,
        show_default=True,
        help="Compare the engine's files with its manifest.json before using them.",
    )(function)


def checked_engine(build: Path, *, check: bool, runs: bool = True) -> Description:
    """Check the files of an engine directory and return its description.

    Args:
        build: The engine directory.
        check: Whether to compare its files with its manifest.
        runs: Whether the engine will be loaded. If not, large files are not hashed, a missing manifest is only a
            warning, and the description may lack the sizes of the LLM.

    Raises:
        LayoutError, ContentsError: see :func:`mmbuild.backends.engine_dir.contents.check`,
            :func:`mmbuild.backends.engine_dir.description.read` and
            :func:`mmbuild.backends.engine_dir.description.require_ranks`.
    """
    from mmbuild.backends.engine_dir import contents
    from mmbuild.backends.engine_dir import description as layout
    from mmbuild.base.progress import BYTES, Amount
    from mmbuild.base.status_line import working
    from mmbuild.cli.output import print_note, print_status

    if check:
        with working(f"checking {build}") as progress:
            problem = contents.check(
                build, loads=runs, progress=lambda done, total: progress("", Amount(done, total, BYTES))
            )
        if problem is not None:
            print_status(f"warning: {problem.message} [{problem.code}]")
            print_note(f"  hint: {problem.hint}")
    description = layout.read(build, whole_llm=runs)
    if runs:
        layout.require_ranks(build, description)
    return description


def refuse_others(context: click.Context, supported: frozenset[str] | None, verb: str) -> None:
    """Refuse options that the engine's backend does not support; ``supported`` is None if it supports all.

    Raises:
        UsageError: MM705.
    """
    from mmbuild.base.errors import UsageError

    others = [name for name in _given_options(context) if supported is not None and name not in supported]
    if others:
        raise UsageError(
            f"{', '.join(others)}: `mmbuild {verb}` does not support these options for engines of this backend",
            code="MM705",
            hint="remove them",
        )


def _given_options(context: click.Context) -> tuple[str, ...]:
    """Long names of the options given on the command line."""
    explicit = click.core.ParameterSource.COMMANDLINE
    return tuple(
        max(parameter.opts, key=len)
        for parameter in context.command.params
        if isinstance(parameter, click.Option)
        and context.get_parameter_source(str(parameter.name)) is explicit
    )
