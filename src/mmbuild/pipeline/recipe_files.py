"""Recipe files of a command line, which may also name directories."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from mmbuild.base.errors import MmbuildError
from mmbuild.pipeline.options import PlanOptions
from mmbuild.schema.recipe_names import SUFFIXES, is_project_marker, recipe_next_to


class NoRecipesError(MmbuildError):
    """A directory that directly contains no recipe."""


def recipe_files(paths: Iterable[Path]) -> tuple[Path, ...]:
    """Return files unchanged, and directories as their YAML files. Subdirectories mostly contain base recipes.

    An ``mmbuild.yaml`` that marks the root of a project is not a recipe.

    Raises:
        NoRecipesError: MM810, a directory without recipes.
    """
    files: dict[Path, None] = {}
    for path in paths:
        if not path.is_dir():
            files[path] = None
            continue
        found = sorted(item for item in path.iterdir() if _is_recipe(item))
        if not found:
            raise NoRecipesError(f"`{path}` contains no recipe", code="MM810", hint=_instead(path))
        files.update(dict.fromkeys(found))
    return tuple(files)


def _is_recipe(item: Path) -> bool:
    return item.suffix in SUFFIXES and item.is_file() and not is_project_marker(item)


def _instead(directory: Path) -> str:
    """What to name instead of a directory without recipes."""
    recipe = recipe_next_to(directory)
    if recipe is not None:
        return f"did you mean `{recipe}`?"
    if (directory / "engine.json").is_file():
        return "it is a built engine: name the recipe that it was built from"
    if (directory / "config.json").is_file():
        return f"it is a model: `mmbuild init {shlex.quote(str(directory))}` writes a recipe for it"
    below = directory / "recipes"
    if below.is_dir():
        return f"did you mean `{below}`?"
    return "name recipe files, or directories that directly contain .yaml files"


def with_files(request: PlanOptions) -> PlanOptions:
    """``request`` with the recipes in its directories instead of these.

    Raises:
        NoRecipesError: MM810, a directory without recipes.
    """
    return replace(request, paths=recipe_files(request.paths))
