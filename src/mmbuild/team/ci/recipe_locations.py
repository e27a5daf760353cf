"""Where a recipe asks for an action: the line that an annotation of its failure stands beside."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from mmbuild.base.yaml_nodes import YamlNode, find
from mmbuild.schema.files import read_document
from mmbuild.schema.matrix import expand

_KEYS: Mapping[str, str] = MappingProxyType(
    {
        "download": "model.source",
        "download-vision": "model.vision.source",
        "prepare": "engine.tensorrt_llm",
        "convert": "engine.dtype",
        "quantize": "engine.quantization",
        "build_llm": "engine.max_input_len",
        "build_visual": "visual",
        "assemble": "engine",
        "measure": "verify",
        "verify": "gates",
    }
)
"""The key that a step's work follows from most; a recipe that lacks it is pointed at by its name."""


@dataclass(frozen=True, slots=True)
class RecipeLocation:
    """A file as seen from the working directory, line and column from 1."""

    file: str
    line: int
    column: int


def recipe_locations(recipes: Iterable[Path], labels: Iterable[str]) -> dict[str, RecipeLocation]:
    """The place of each label (``<variant>/<step>``) that one of ``recipes`` asks for."""
    wanted = {label: label.rpartition("/")[::2] for label in labels}
    found: dict[str, RecipeLocation] = {}
    for recipe in recipes if wanted else ():
        for name, node in _variants(recipe).items():
            for label, (variant, step) in wanted.items():
                if variant == name:
                    found[label] = _place(node, step)
    return found


def _variants(recipe: Path) -> dict[str, YamlNode]:
    """What a file says of each of its variants; nothing where it cannot be read (any more)."""
    node = read_document(recipe, allow_outside=True).node
    if node is None or "name" not in node.value:
        return {}
    return {f"{node.value['name'].value}{suffix}": variant for suffix, variant in expand(node)[0]}


def _place(node: YamlNode, step: str) -> RecipeLocation:
    parts = _KEYS.get(step.removeprefix("toolchain_"), "name").split(".")
    at, reached = find(node, parts)
    if not reached:
        at = node.value["name"]
    span = at.key or at.span
    return RecipeLocation(span.source.label, span.line, span.column)
