"""Directories that a recipe's models may read from, and a check for links that lead outside them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from mmbuild.base.diagnostics import Violation
from mmbuild.base.files import FileRefusedError
from mmbuild.base.yaml_nodes import YamlNode, find, parts_of
from mmbuild.models.families import family
from mmbuild.models.files.chat_template import MORE_TEMPLATES
from mmbuild.models.sources.allowed_places import Places, cache_of, require_inside
from mmbuild.models.sources.config import ConfigError, parse_source
from mmbuild.schema.model import Recipe

_SOURCES = {"model": "model.source", "vision": "model.vision.source"}


def places_of(recipe: Recipe, node: YamlNode, root: Path, *, allow_outside: bool) -> Places | None:
    """Directories that the files of the recipe's models may be in; None: anywhere.

    Args:
        recipe: With absolute paths.
        node: Its source, which knows the values from the command line.
        root: Project root.
        allow_outside: Whether any directory is allowed.
    """
    if allow_outside:
        return None
    allowed = [os.path.realpath(root)]
    caches: list[str] = []
    for key, directory in _directories(recipe):
        at, _ = find(node, parts_of(key))
        if at.span.source.trusted:
            allowed.append(os.path.realpath(directory))
        cache = cache_of(directory)
        caches += [] if cache is None else [cache]
    return tuple(dict.fromkeys([*allowed, *caches[:1]]))


def outside_faults(recipe: Recipe, places: Places | None) -> Iterator[Violation]:
    """Report model directories with files that are not regular, or with links that lead outside ``places``."""
    inner = (*family(recipe.model.family).TRAITS.directories, MORE_TEMPLATES)
    for key, directory in _directories(recipe):
        try:
            require_inside(directory, inner, places)
        except FileRefusedError as error:
            yield Violation(error.code, (key,), error.message, error.hint)
        except OSError:
            continue  # reported when the file is read


def _directories(recipe: Recipe) -> Iterator[tuple[str, Path]]:
    for name, key in _SOURCES.items():
        source = recipe.model if name == "model" else recipe.model.vision
        try:
            ref = None if source is None else parse_source(source.source)
        except ConfigError:
            continue  # reported when the model's config is read
        if ref is not None and ref.kind in ("directory", "dummy-directory"):
            yield key, Path(ref.value)
