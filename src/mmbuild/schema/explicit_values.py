"""What a recipe's files say, key by key: for telling which line changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmbuild.base.yaml_nodes import SHORT, Node, Span, plain, put


def written(node: Node) -> dict[str, Node]:
    """The values that were written, by dotted key; lists are values, and so are empty mappings.

    A word that is short for a mapping (``quantization: int8``) stands under the key that it is short for.
    """
    return _leaves(node, "")


def settings(node: Node) -> dict[str, Any]:
    """:func:`written` as plain data, which is kept with a build."""
    return {key: plain(leaf) for key, leaf in written(node).items()}


def place(node: Node, key: str) -> Span | None:
    """Where the value of a dotted key stands; None where nobody wrote it."""
    leaf = written(node).get(key)
    return leaf.span if leaf is not None else None


def as_if(node: Node, key: str, value: Any) -> Node:
    """``node`` with plain data at a dotted key."""
    return put(node, key.split("."), _node(value, place(node, key) or node.span))


def _node(value: Any, span: Span) -> Node:
    if isinstance(value, Mapping):
        return Node({key: _node(item, span) for key, item in value.items()}, span, span)
    if isinstance(value, (list, tuple)):
        return Node(tuple(_node(item, span) for item in value), span)
    return Node(value, span)


def _leaves(node: Node, prefix: str) -> dict[str, Node]:
    leaves: dict[str, Node] = {}
    for key, child in node.value.items():
        if isinstance(child.value, Mapping) and child.value:
            leaves.update(_leaves(child, f"{prefix}{key}."))
        elif key in SHORT and isinstance(child.value, str):
            leaves[f"{prefix}{key}.{SHORT[key]}"] = child
        else:
            leaves[prefix + key] = child
    return leaves
