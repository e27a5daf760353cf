"""Expands ``matrix``: one variant of a recipe per combination of axis values."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

from mmbuild.base.diagnostics import Diagnostic, nearest
from mmbuild.base.yaml_nodes import YamlNode, diagnostic_at, find, plain, replace_at
from mmbuild.schema.model import Axis, Engine
from mmbuild.schema.validation import every_key

MAX_VARIANTS = 1000


@dataclass(frozen=True, slots=True)
class _Axis:
    name: str
    key: str
    values: tuple[YamlNode, ...]


def expand(
    root: YamlNode, pinned: Collection[str] = ()
) -> tuple[list[tuple[str, YamlNode]], list[Diagnostic]]:
    """The variants of ``root`` as (name suffix, node), and diagnostics. Without a matrix the suffix is empty.

    Args:
        root: The merged recipe.
        pinned: Dotted keys set with ``--set``; an axis over such a key keeps only that value.
    """
    matrix = root.value.get("matrix")
    bare = YamlNode({key: child for key, child in root.value.items() if key != "matrix"}, root.span, root.key)
    if matrix is None or matrix.value is None:
        return [("", bare)], []
    if not isinstance(matrix.value, Mapping):
        message, hint = "`matrix` must be a mapping of axes", "write `matrix: {quantization: [none, int8]}`"
        return [("", bare)], [diagnostic_at("MM124", message, matrix.span, path="matrix", hint=hint)]
    axes: list[_Axis] = []
    findings: list[Diagnostic] = []
    for name, node in matrix.value.items():
        axis = _axis(name, node, bare, pinned)
        if isinstance(axis, Diagnostic):
            findings.append(axis)
        else:
            axes.append(axis)
    count = prod(len(axis.values) for axis in axes)
    if count > MAX_VARIANTS:
        message = f"the matrix has {count} variants; the limit is {MAX_VARIANTS}"
        findings.append(
            diagnostic_at("MM125", message, matrix.key or matrix.span, path="matrix", hint="split the recipe")
        )
        return [], findings
    return _variants(bare, axes, findings), findings


def _axis(name: str, node: YamlNode, root: YamlNode, pinned: Collection[str]) -> _Axis | Diagnostic:
    key, values, fault = _parts(name, node)
    if fault is not None:
        return fault
    resolved = key if "." in key else f"engine.{key}" if key in Engine.model_fields else None
    known = [item for item in every_key() if "." in item or item in ("visual", "target")]
    if resolved is None or resolved not in known:
        return diagnostic_at(
            "MM124",
            f"axis `{name}` is over `{key}`, which is not a key of the recipe",
            node.key or node.span,
            path=f"matrix.{name}",
            suggestion=nearest(key, [*Engine.model_fields, *known]),
            hint="name a key of `engine`, or a dotted key such as `visual.dtype`",
        )
    if resolved in pinned:
        values = (find(root, resolved.split("."))[0],)
    return _Axis(name, resolved, values)


def _parts(name: str, node: YamlNode) -> tuple[str, tuple[YamlNode, ...], Diagnostic | None]:
    if isinstance(node.value, tuple) and node.value:
        return name, node.value, None
    if isinstance(node.value, Mapping) and set(node.value) == set(Axis.model_fields):
        key, values = node.value["key"].value, node.value["values"].value
        if isinstance(key, str) and isinstance(values, tuple) and values:
            return key, values, None
    fault = diagnostic_at(
        "MM124",
        f"axis `{name}` must be a list of values, or `{{key: dotted.key, values: [...]}}`",
        node.span,
        path=f"matrix.{name}",
        hint=f"write `{name}: [{node.value}]`" if isinstance(node.value, str | int) else None,
    )
    return name, (), fault


def _variants(root: YamlNode, axes: list[_Axis], findings: list[Diagnostic]) -> list[tuple[str, YamlNode]]:
    variants: dict[str, YamlNode] = {}
    for values in product(*(axis.values for axis in axes)):
        suffix, node = "", root
        for axis, value in zip(axes, values, strict=True):
            suffix += f"-{_word(axis, value)}"
            parts = axis.key.split(".")
            key = find(root, parts)[0].key if find(root, parts)[1] == tuple(parts) else value.span
            node = replace_at(node, parts, YamlNode(value.value, value.span, key))
        if suffix in variants:
            message = f"two variants have the name `{suffix[1:]}`"
            findings.append(diagnostic_at("MM126", message, values[-1].span, path=f"matrix.{axes[-1].name}"))
        variants[suffix] = node
    return list(variants.items())


def _word(axis: _Axis, node: YamlNode) -> str:
    """A value's part of the variant's name: the word itself, or key and number."""
    value: Any = plain(node)
    if isinstance(value, Mapping):
        value = "_".join(str(item) for item in value.values() if isinstance(item, str | int))
    text = value if isinstance(value, str) else f"{axis.name.rpartition('.')[2]}{value}"
    return re.sub(r"[^A-Za-z0-9._]+", "_", text)[:60]
