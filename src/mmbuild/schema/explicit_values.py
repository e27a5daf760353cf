"""The values that a recipe's files state, by key: used to report which line changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmbuild.base.yaml_nodes import SHORT, Span, YamlNode, plain, replace_at


def explicit_nodes(node: YamlNode) -> dict[str, YamlNode]:
    """The stated values by dotted key. Lists and empty mappings count as values.

    A shorthand for a mapping (``quantization: int8``) is listed under the full key.
    """
    return _leaves(node, "")


def explicit_values(node: YamlNode) -> dict[str, Any]:
    """:func:`explicit_nodes` as plain data, stored with a build."""
    return {key: plain(leaf) for key, leaf in explicit_nodes(node).items()}


def span_of(node: YamlNode, key: str) -> Span | None:
    """Source location of the value of a dotted key; None if no file states it."""
    leaf = explicit_nodes(node).get(key)
    return leaf.span if leaf is not None else None


def with_value(node: YamlNode, key: str, value: Any) -> YamlNode:
    """Return ``node`` with plain data at a dotted key."""
    return replace_at(node, key.split("."), _node(value, span_of(node, key) or node.span))


def _node(value: Any, span: Span) -> YamlNode:
    if isinstance(value, Mapping):
        return YamlNode({key: _node(item, span) for key, item in value.items()}, span, span)
    if isinstance(value, (list, tuple)):
        return YamlNode(tuple(_node(item, span) for item in value), span)
    return YamlNode(value, span)


def _leaves(node: YamlNode, prefix: str) -> dict[str, YamlNode]:
    leaves: dict[str, YamlNode] = {}
    for key, child in node.value.items():
        if isinstance(child.value, Mapping) and child.value:
            leaves.update(_leaves(child, f"{prefix}{key}."))
        elif key in SHORT and isinstance(child.value, str):
            leaves[f"{prefix}{key}.{SHORT[key]}"] = child
        else:
            leaves[prefix + key] = child
    return leaves
