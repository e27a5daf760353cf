"""Explains paths that are not an engine directory, and where the engine is or will be."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmbuild.base.files import FileRefusedError, entries, read_file
from mmbuild.base.limits import YAML_TEXT
from mmbuild.base.near_paths import path_hint
from mmbuild.base.yaml_reader import YamlProblemError, parse_yaml

# The default of --build-dir.
_BUILD = Path("build")
_ENGINE = "engine.json"
_RECIPES = (".yaml", ".yml")
_KEYS = {"model", "extends", "engine"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_MOST_NAMED = 3
_MOST_READ = 100  # recipes of a directory that are read


def instead_of_engine(path: Path) -> tuple[str, str]:
    """What ``path`` is, as the end of a sentence, and a hint.

    Args:
        path: A file or directory without ``engine.json``; need not exist.
    """
    if path.is_file():
        return _file(path)
    if not path.is_dir():
        known = _BUILD / path.name
        if (known / _ENGINE).is_file():
            return "does not exist", f"did you mean `{known}`?"
        return "does not exist", path_hint(path, _apply("RECIPE", None))
    engines = sorted(found.parent for found in path.glob(f"*/{_ENGINE}"))
    if engines:
        return "is a directory of engines, not an engine", f"name one of them: {_named(engines)}"
    if (path / "config.json").is_file():
        return (
            "is a model directory, not an engine",
            "write a recipe with `source` set to it, apply it, and name the directory that `mmbuild apply` prints",
        )
    recipes = [found for found in _listed(path) if _recipe(found)]
    if recipes:
        return "is a directory of recipes, not an engine", _apply(str(recipes[0]), _name(recipes[0]))
    return f"is not an engine directory: it has no {_ENGINE}", _apply("RECIPE", None)


def _file(path: Path) -> tuple[str, str]:
    if _recipe(path):
        return "is a recipe, not an engine directory", _apply(str(path), _name(path))
    if path.name == _ENGINE or (path.parent / _ENGINE).is_file():
        return "is a file of an engine, not its directory", f"name `{path.parent}`"
    return "is a file, not an engine directory", _apply("RECIPE", None)


def _apply(recipe: str, name: str | None) -> str:
    """Hint with the location of a recipe's engine, or how to build it."""
    built = _built(name.removesuffix("-<variant>")) if name is not None else []
    if built:
        return f"name its engine: {_named(built)}"
    return f"run `mmbuild apply {recipe}` first; its engine is then in `{_BUILD / (name or '<name>')}`"


def _built(name: str) -> list[Path]:
    """Existing engines of a recipe's variants."""
    found = [*_BUILD.glob(f"{name}/{_ENGINE}"), *_BUILD.glob(f"{name}-*/{_ENGINE}")]
    return sorted(file.parent for file in found)


def _named(paths: list[Path]) -> str:
    more = f" or {len(paths) - _MOST_NAMED} more" if len(paths) > _MOST_NAMED else ""
    return ", ".join(f"`{path}`" for path in paths[:_MOST_NAMED]) + more


def _recipe(path: Path) -> bool:
    return path.suffix in _RECIPES and bool(_KEYS & _content(path).keys())


def _name(path: Path) -> str | None:
    """The name that a recipe states; None if it is inherited."""
    name = _content(path).get("name")
    variant = "-<variant>" if "matrix" in _content(path) else ""
    return name + variant if isinstance(name, str) and _NAME.fullmatch(name) else None


def _listed(path: Path) -> list[Path]:
    try:
        return [found for found in entries(path) if found.suffix in _RECIPES][:_MOST_READ]
    except (OSError, FileRefusedError):
        return []


def _content(path: Path) -> Mapping[str, Any]:
    try:
        content = parse_yaml(read_file(path, YAML_TEXT), YAML_TEXT)
    except (OSError, FileRefusedError, YamlProblemError):
        return {}
    return content if isinstance(content, dict) else {}
