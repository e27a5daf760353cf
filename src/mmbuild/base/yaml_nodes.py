"""Plain data with the place each value was written: what YAML becomes before it becomes a recipe."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmbuild.base.diagnostics import Diagnostic

# Keys whose plain word is short for a mapping with that word under the named key.
SHORT = {"quantization": "algorithm"}


@dataclass(frozen=True, slots=True)
class Source:
    """A text that values come from.

    Attributes:
        label: A file name as shown to the user, or ``--set KEY=VALUE``.
        lines: Its lines without line breaks.
        directory: What relative paths in it are relative to (absolute, as text).
        trusted: Whether the user typed it in this very command, so that it may name any path.
    """

    label: str
    lines: tuple[str, ...]
    directory: str = "."
    trusted: bool = False


@dataclass(frozen=True, slots=True)
class Span:
    """A place in a source: line and column from 1, width in characters."""

    source: Source
    line: int
    column: int
    width: int = 1

    @property
    def excerpt(self) -> str:
        lines = self.source.lines
        return lines[self.line - 1] if 0 < self.line <= len(lines) else ""


@dataclass(frozen=True, slots=True)
class YamlNode:
    """A value and its place.

    Attributes:
        value: A scalar (str, int, float, bool, None), a tuple of nodes, or a mapping of str to nodes.
        span: Where the value stands.
        key: Where its key stands, for the values of a mapping.
    """

    value: Any
    span: Span
    key: Span | None = field(default=None)


def plain(node: YamlNode) -> Any:
    """The data alone: dicts, lists and scalars."""
    if isinstance(node.value, Mapping):
        return {key: plain(child) for key, child in node.value.items()}
    if isinstance(node.value, tuple):
        return [plain(child) for child in node.value]
    return node.value


def find(node: YamlNode, path: Sequence[str | int]) -> tuple[YamlNode, tuple[str | int, ...]]:
    """The deepest node along ``path``, and the part of ``path`` that exists.

    Components that name no key of the data (pydantic puts type names into its paths) are skipped.
    """
    reached: list[str | int] = []
    for part in path:
        child: YamlNode | None = None
        if isinstance(node.value, Mapping):
            child = node.value.get(part)
        elif isinstance(node.value, tuple) and isinstance(part, int) and part < len(node.value):
            child = node.value[part]
        if child is not None:
            node = child
            reached.append(part)
    return node, tuple(reached)


def has(node: YamlNode, dotted: str) -> bool:
    """Whether the user wrote the key ``dotted`` with a value that is not null, or a word short for it."""
    parts = parts_of(dotted)
    found, reached = find(node, parts)
    if not reached or found.value is None:
        return False
    return reached == tuple(parts) or not isinstance(found.value, Mapping)


def replace_at(node: YamlNode, parts: Sequence[str], value: YamlNode) -> YamlNode:
    """``node`` with ``value`` at the key path ``parts``; mappings on the way are made where absent."""
    if not parts:
        return value
    children = dict(node.value) if isinstance(node.value, Mapping) else {}
    below = _widen(parts[0], children.get(parts[0]))
    if len(parts) > 1 and (below is None or not isinstance(below.value, Mapping)):
        below = YamlNode({}, value.span, value.key)
    children[parts[0]] = value if len(parts) == 1 or below is None else replace_at(below, parts[1:], value)
    return YamlNode(children, node.span, node.key)


def drop(node: YamlNode, path: Sequence[str | int]) -> YamlNode:
    """``node`` without the mapping entry or whole list that ``path`` leads into."""
    if not path or not isinstance(node.value, Mapping):
        return node
    head, rest = path[0], path[1:]
    children = dict(node.value)
    child = children.get(str(head))
    if child is None:
        return node
    if rest and isinstance(child.value, Mapping):
        children[str(head)] = drop(child, rest)
    else:
        del children[str(head)]
    return YamlNode(children, node.span, node.key)


def merge(base: YamlNode, over: YamlNode) -> YamlNode:
    """``over`` laid on ``base``: mappings merge key by key, everything else is replaced."""
    if not (isinstance(base.value, Mapping) and isinstance(over.value, Mapping)):
        return over
    children = dict(base.value)
    for key, child in over.value.items():
        below = _widen(key, children.get(key))
        children[key] = merge(below, child) if below is not None else child
    return YamlNode(children, over.span, over.key)


def _widen(key: str, node: YamlNode | None) -> YamlNode | None:
    if node is not None and key in SHORT and isinstance(node.value, str):
        return YamlNode({SHORT[key]: node}, node.span, node.key)
    return node


def keys(node: YamlNode, prefix: str = "") -> Iterator[str]:
    """Dotted paths of all mapping keys, depth first."""
    if isinstance(node.value, Mapping):
        for key, child in node.value.items():
            yield f"{prefix}{key}"
            yield from keys(child, f"{prefix}{key}.")


def dotted(path: Sequence[str | int]) -> str:
    """``("verify", "images", 0)`` as ``verify.images[0]``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def parts_of(path: str) -> list[str | int]:
    """The path that :func:`dotted` writes, taken apart again."""
    found = re.findall(r"\[(\d+)\]|([^.\[]+)", path)
    return [int(index) if index else name for index, name in found]


def printable(text: str) -> str:
    """``text`` as it can be written anywhere: bytes of the command line that are not UTF-8 as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def diagnostic_at(
    code: str,
    message: str,
    span: Span,
    *,
    path: str = "",
    allowed: Sequence[str] = (),
    suggestion: str | None = None,
    hint: str | None = None,
) -> Diagnostic:
    """A diagnostic at ``span``."""
    return Diagnostic(
        code=code,
        message=message,
        file=span.source.label,
        line=span.line,
        column=span.column,
        path=path,
        allowed=tuple(allowed),
        suggestion=suggestion,
        hint=hint,
        excerpt=span.excerpt,
        width=span.width,
    )
