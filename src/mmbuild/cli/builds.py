"""The argument BUILD: an engine directory, or the name of a build below ``--build-dir``."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from mmbuild.cli.options import build_dir_option

if TYPE_CHECKING:
    from mmbuild.base.errors import MmbuildError

F = TypeVar("F", bound=Callable[..., Any])

_FILES = ("engine.json", "manifest.json")
"""Files of which an engine directory has at least one."""
_RECIPES = (".yaml", ".yml")
_MOST_LISTED = 5


def build_arguments(
    *names: str, nargs: int = 1, required: bool = True, metavar: str = "BUILD"
) -> Callable[[F], F]:
    """Add the arguments ``names`` and ``--build-dir``; the command gets the directories (:func:`find_build`).

    Args:
        names: Parameters of the command, one for each argument.
        nargs: -1 makes an argument take any number of builds.
        required: False: the argument may be missing, and is then None.
        metavar: Its name in ``--help``.
    """

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def wrapped(*args: Any, build_dir: Path, **kwargs: Any) -> Any:
            for name in names:
                kwargs[name] = _found(kwargs[name], build_dir)
            return function(*args, **kwargs)

        decorated: Any = build_dir_option("Directory of the builds that BUILD may name.")(wrapped)
        for name in reversed(names):
            kind = click.Path(path_type=Path)
            decorated = click.argument(name, nargs=nargs, required=required, type=kind, metavar=metavar)(
                decorated
            )
        return cast(F, decorated)

    return decorate


def _found(given: Any, build_dir: Path) -> Any:
    if given is None:
        return None
    if isinstance(given, tuple):
        return tuple(find_build(path, build_dir) for path in given)
    return find_build(given, build_dir)


def find_build(given: Path, build_dir: Path) -> Path:
    """The path that ``given`` means: itself, or the build of that name in ``build_dir``.

    A name is one word without a directory. A path that exists is preferred, unless it is no engine and there is a
    build of that name. Other paths are returned as they are.

    Raises:
        MmbuildError: MM542, there is neither such a path nor such a build, but there are other builds.
    """
    if given.name != str(given) or given.suffix in _RECIPES or _is_engine(given):
        return given
    named = build_dir / given
    if _is_engine(named) or (os.path.lexists(named) and not os.path.lexists(given)):
        return named
    known = build_names(build_dir)
    if os.path.lexists(given) or not known:
        return given
    raise _no_build(str(given), known, build_dir)


def build_names(build_dir: Path) -> list[str]:
    """Names of the engines in ``build_dir``, sorted; empty if it cannot be read."""
    try:
        return sorted(item.name for item in build_dir.iterdir() if _is_engine(item))
    except (OSError, ValueError):
        return []


def _is_engine(path: Path) -> bool:
    return any((path / name).is_file() for name in _FILES)


def _no_build(name: str, known: Sequence[str], build_dir: Path) -> MmbuildError:
    from mmbuild.base.diagnostics import nearest
    from mmbuild.base.errors import MmbuildError

    shown = name if len(name) <= 100 else f"{name[:100]}..."
    near = nearest(name, known)
    more = f" and {len(known) - _MOST_LISTED} more" if len(known) > _MOST_LISTED else ""
    hint = f"did you mean `{near}`?" if near else f"`{build_dir}` has {', '.join(known[:_MOST_LISTED])}{more}"
    return MmbuildError(
        f"no build `{shown}` in `{build_dir}`, and no such directory", code="MM542", hint=hint
    )
