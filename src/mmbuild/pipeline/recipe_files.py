"""Recipe files of a command line, which may also name directories."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from mmbuild.base.errors import MmbuildError
from mmbuild.pipeline.options import PlanOptions

_SUFFIXES = (".yaml", ".yml")


class NoRecipesError(MmbuildError):
    """A directory that directly contains no recipe."""


def recipe_files(paths: Iterable[Path]) -> tuple[Path, ...]:
    """Return files unchanged, and directories as their YAML files. Subdirectories mostly contain base recipes.

    Raises:
        NoRecipesError: MM810, a directory without recipes.
    """
    files: dict[Path, None] = {}
    for path in paths:
        if not path.is_dir():
            files[path] = None
            continue
        found = sorted(item for item in path.iterdir() if item.suffix in _SUFFIXES and item.is_file())
        if not found:
            raise NoRecipesError(
                f"`{path}` contains no recipe",
                code="MM810",
                hint="name recipe files, or directories that directly contain .yaml files",
            )
        files.update(dict.fromkeys(found))
    return tuple(files)


def with_files(request: PlanOptions) -> PlanOptions:
    """``request`` with the recipes in its directories instead of these.

    Raises:
        NoRecipesError: MM810, a directory without recipes.
    """
    return replace(request, paths=recipe_files(request.paths))
