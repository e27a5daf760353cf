"""Validates YAML nodes as a :class:`Recipe` and converts pydantic errors to diagnostics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from mmbuild.base import pydantic_errors
from mmbuild.base.diagnostics import Diagnostic
from mmbuild.base.pydantic_errors import Path
from mmbuild.base.yaml_nodes import SHORT, YamlNode, diagnostic_at, dotted, drop, find, has, plain, replace_at
from mmbuild.models.families import MODULES
from mmbuild.schema.model import VERSION, Algorithm, Recipe
from mmbuild.schema.other_words import KEY_HINTS, KEYS, VALUES, value_hint

FORM = pydantic_errors.DocumentKind(
    Recipe,
    "recipe",
    short={key: tuple(item.value for item in Algorithm) for key in SHORT},
    other_keys=KEYS,
    other_values=VALUES,
    key_hints=KEY_HINTS,
    value_hint=value_hint,
)

# Placeholders for required values that are missing or invalid; rules that read these keys are skipped.
_PLACEHOLDERS = {
    "version": 1,
    "name": "unnamed",
    "model.family": next(iter(MODULES)),
    "model.source": "unknown",
    "engine.backend": "torch",
    "engine.max_input_len": 1,
    "engine.max_output_len": 1,
}


def check(root: YamlNode) -> tuple[Recipe | None, list[Diagnostic], set[str]]:
    """Validate ``root`` as a recipe.

    Returns:
        The recipe, the diagnostics, and the dotted paths with violations. Invalid entries are removed from the
        recipe, so that rules that do not read them still apply; None if that is not possible.
    """
    recipe, errors = pydantic_errors.validate(root, FORM)
    if recipe is not None:
        return recipe, [], set()
    findings, faulty = [], set()
    pruned = root
    for path, group in pydantic_errors.by_path(root, errors).items():
        findings.append(_diagnose(root, path, group))
        faulty.add(dotted(path))
        pruned = drop(pruned, path)
    recipe, _ = pydantic_errors.validate(_with_placeholders(pruned), FORM)
    return recipe, _without_misspelt(findings), faulty


def _without_misspelt(findings: list[Diagnostic]) -> list[Diagnostic]:
    """``findings`` without missing keys of which a misspelt form is reported."""
    meant = {_suggested_path(item) for item in findings if item.code == "MM103"}
    return [item for item in findings if item.code != "MM111" or item.path not in meant]


def _suggested_path(item: Diagnostic) -> str:
    """The dotted path of the key that a finding suggests in place of ``item.path``."""
    section, _, _ = item.path.rpartition(".")
    if item.suggestion is None:  # possibly a key of the recipe itself that is indented too far
        return item.path.rpartition(".")[2]
    if not section or "." in item.suggestion:
        return item.suggestion
    return f"{section}.{item.suggestion}"


def _with_placeholders(root: YamlNode) -> YamlNode:
    for key, value in _PLACEHOLDERS.items():
        if not has(root, key):
            root = replace_at(root, key.split("."), YamlNode(value, root.span))
    return root


def _diagnose(root: YamlNode, path: Path, group: list[Any]) -> Diagnostic:
    kind = group[0]["type"]
    if path == ("version",) and kind not in ("missing", "extra_forbidden"):
        return _version(find(root, path)[0])
    return pydantic_errors.diagnose(root, path, group, FORM)


def version_faults(base: YamlNode | None) -> list[Diagnostic]:
    """The diagnostics for the version of a recipe that another one extends: the merged recipe has the other's."""
    node = None if base is None else base.value.get("version")
    known = node is None or (type(node.value) is int and node.value == VERSION)
    return [] if node is None or known else [_version(node)]


def _version(node: YamlNode) -> Diagnostic:
    quoted = plain(node) == "1"
    return diagnostic_at(
        "MM115",
        "`version` must be the number 1, not the text `1`"
        if quoted
        else f"unknown recipe version `{plain(node)}`",
        node.span,
        path="version",
        allowed=("1",),
        hint="remove the quotes: `version: 1`"
        if quoted
        else "write `version: 1`; a newer format needs a newer mmbuild",
    )


def section_at(path: Path) -> type[BaseModel] | None:
    """The model of the mapping at ``path`` of a recipe; None if there is none."""
    return pydantic_errors.section_at(path, FORM)


def every_key() -> Iterator[str]:
    """Dotted paths of all keys of a recipe."""
    return pydantic_errors.every_key(Recipe)
