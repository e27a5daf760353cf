"""Options that several verbs share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def recipes(function: F) -> F:
    """The recipe files and how to load them: ``recipes``, and :func:`loading`."""
    return click.argument(
        "recipes", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RECIPE..."
    )(loading(function))


def loading(function: F) -> F:
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


def locked(function: F) -> F:
    """Whether recipes are built as their locks say: ``locked``."""
    return click.option(
        "--locked", is_flag=True, help="Refuse whatever is not as RECIPE.lock says (`mmbuild lock`)."
    )(function)


def places(function: F) -> F:
    """Where things go: ``store``, ``build_dir``."""
    function = click.option(
        "--build-dir",
        type=click.Path(path_type=Path),
        default=Path("build"),
        show_default=True,
        help="Where the engine directories go.",
    )(function)
    return store(function)


def store(function: F) -> F:
    """The store: ``store``, None for the default one."""
    return click.option(
        "--store",
        type=click.Path(path_type=Path),
        help="Directory of the store (default: $MMBUILD_STORE, else ~/.cache/mmbuild/store).",
    )(function)


def given(context: click.Context) -> tuple[str, ...]:
    """Options that were written on the command line, by their long names."""
    written = click.core.ParameterSource.COMMANDLINE
    return tuple(
        max(parameter.opts, key=len)
        for parameter in context.command.params
        if isinstance(parameter, click.Option)
        and context.get_parameter_source(str(parameter.name)) is written
    )
