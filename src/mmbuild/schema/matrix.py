"""Expands ``matrix``: one variant of a recipe per combination of axis values."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from math import prod
from typing import Any

from mmbuild.base.diagnostics import Diagnostic, nearest
from mmbuild.base.yaml_nodes import Span, YamlNode, diagnostic_at, find, plain, replace_at
from mmbuild.schema.explicit_values import explicit_nodes
from mmbuild.schema.model import Axis, Engine, Recipe
from mmbuild.schema.overrides import Override
from mmbuild.schema.validation import every_key

MAX_VARIANTS = 1000
_SECTIONS = ("visual", "target")
"""Sections outside `engine` that an axis may vary as a whole."""


@dataclass(frozen=True, slots=True)
class _Axis:
    name: str
    key: str
    values: tuple[YamlNode, ...]
    at: Span

    @property
    def parts(self) -> list[str]:
        return self.key.split(".")

    def keys(self) -> set[str]:
        """Dotted keys that its values set."""
        empty = YamlNode({}, self.at)
        return {key for value in self.values for key in explicit_nodes(replace_at(empty, self.parts, value))}


def expand(
    root: YamlNode, overrides: Sequence[Override] = ()
) -> tuple[list[tuple[str, YamlNode]], list[Diagnostic]]:
    """The variants of ``root`` as (name suffix, node), and diagnostics. Without a matrix the suffix is empty.

    Args:
        root: The merged recipe, with ``overrides``.
        overrides: Values of ``--set``; they replace those of axes over the same keys.
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
        axis = _axis(name, node, bare, overrides)
        if isinstance(axis, Diagnostic):
            findings.append(axis)
        else:
            axes.append(axis)
    findings += _overlaps(axes)
    count = prod(len(axis.values) for axis in axes)
    if count > MAX_VARIANTS:
        message = f"the matrix has {count} variants; the limit is {MAX_VARIANTS}"
        findings.append(
            diagnostic_at("MM125", message, matrix.key or matrix.span, path="matrix", hint="split the recipe")
        )
        return [], findings
    return _variants(bare, axes, findings), findings


def _axis(name: str, node: YamlNode, root: YamlNode, overrides: Sequence[Override]) -> _Axis | Diagnostic:
    key, values, fault = _parts(name, node)
    if fault is not None:
        return fault
    known = [item for item in every_key() if "." in item or item in _SECTIONS]
    resolved = f"engine.{key}" if key in Engine.model_fields else key
    if resolved not in known:
        fixed = key in Recipe.model_fields
        return diagnostic_at(
            "MM124",
            f"axis `{name}` is over `{key}`, which {'no axis can vary' if fixed else 'is not a key of the recipe'}",
            node.key or node.span,
            path=f"matrix.{name}",
            suggestion=None if fixed else nearest(key, [*Engine.model_fields, *known]),
            hint="name a key of `engine`, or a dotted key such as `visual.dtype`",
        )
    axis = _Axis(name, resolved, values, node.key or node.span)
    return replace(axis, values=_with_overrides(axis, root, overrides))


def _with_overrides(axis: _Axis, root: YamlNode, overrides: Sequence[Override]) -> tuple[YamlNode, ...]:
    """The values of ``axis`` after ``overrides``, each once if one of them concerns the axis."""
    concerned = [
        item for item in overrides if _is_within(item.key, axis.key) or _is_within(axis.key, item.key)
    ]
    if not concerned:
        return axis.values
    distinct: dict[str, YamlNode] = {}
    for value in axis.values:
        node = replace_at(root, axis.parts, value)
        for override in concerned:
            node = replace_at(node, override.key.split("."), override.value)
        # A section that is set as a whole need not contain the key of the axis, or has it in its short form.
        changed, reached = find(node, axis.parts)
        result = changed if reached == tuple(axis.parts) else explicit_nodes(node).get(axis.key, value)
        distinct.setdefault(repr(plain(result)), result)
    return tuple(distinct.values())


def _is_within(key: str, section: str) -> bool:
    return f"{key}.".startswith(f"{section}.")


def _overlaps(axes: Sequence[_Axis]) -> Iterator[Diagnostic]:
    for first, second in combinations(axes, 2):
        for key in sorted(first.keys() & second.keys())[:1]:
            yield diagnostic_at(
                "MM124",
                f"axes `{first.name}` and `{second.name}` both set `{key}`",
                second.at,
                path=f"matrix.{second.name}",
                hint="keep one of them",
            )


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
        pairs = list(zip(axes, values, strict=True))
        suffix, node = "".join(f"-{_word(axis, value)}" for axis, value in pairs), root
        # A section before its keys, which it would replace.
        for axis, value in sorted(pairs, key=lambda pair: len(pair[0].parts)):
            stated, reached = find(root, axis.parts)
            key = stated.key if reached == tuple(axis.parts) else value.span
            node = replace_at(node, axis.parts, YamlNode(value.value, value.span, key))
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
