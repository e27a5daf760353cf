"""Where the inputs of a recipe may be, and model directories with links that leave those places."""

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
    """Directories that hold everything that the recipe's models may consist of; None: any.

    Args:
        recipe: With absolute paths.
        node: What it was read from, which knows what the user typed on the command line.
        root: Project root.
        allow_outside: Whether everything is allowed.
    """
    if allow_outside:
        return None
    found = [os.path.realpath(root)]
    caches: list[str] = []
    for key, directory in _directories(recipe):
        at, _ = find(node, parts_of(key))
        if at.span.source.trusted:
            found.append(os.path.realpath(directory))
        cache = cache_of(directory)
        caches += [] if cache is None else [cache]
    return tuple(dict.fromkeys([*found, *caches[:1]]))


def outside_faults(recipe: Recipe, places: Places | None) -> Iterator[Violation]:
    """Model directories with files that are not regular, or that are links out of ``places``."""
    inner = (*family(recipe.model.family).TRAITS.directories, MORE_TEMPLATES)
    for key, directory in _directories(recipe):
        try:
            require_inside(directory, inner, places)
        except FileRefusedError as error:
            yield Violation(error.code, (key,), error.message, error.hint)
        except OSError:
            continue  # what cannot be read is reported by those who read it


def _directories(recipe: Recipe) -> Iterator[tuple[str, Path]]:
    for name, key in _SOURCES.items():
        source = recipe.model if name == "model" else recipe.model.vision
        try:
            ref = None if source is None else parse_source(source.source)
        except ConfigError:
            continue  # said when the model's config is read
        if ref is not None and ref.kind in ("directory", "dummy-directory"):
            yield key, Path(ref.value)
