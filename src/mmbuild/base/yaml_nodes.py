"""Plain data with source locations: the intermediate form between YAML and a recipe."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmbuild.base.diagnostics import Diagnostic

# Keys whose value may be a word, short for a mapping with that word under the named key.
SHORT = {"quantization": "algorithm"}


@dataclass(frozen=True, slots=True)
class Source:
    """A text that contains values.

    Attributes:
        label: File name for display, or ``--set KEY=VALUE``.
        lines: Its lines without line breaks.
        directory: Base directory of relative paths in it (absolute, as text).
        trusted: Whether the user typed it on the command line, so that it may name any path.
    """

    label: str
    lines: tuple[str, ...]
    directory: str = "."
    trusted: bool = False


@dataclass(frozen=True, slots=True)
class Span:
    """A location in a source: line and column from 1, width in characters."""

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
    """A value with its location.

    Attributes:
        value: A scalar (str, int, float, bool, None), a tuple of nodes, or a mapping of str to nodes.
        span: Location of the value.
        key: Location of its key, for values of a mapping.
    """

    value: Any
    span: Span
    key: Span | None = field(default=None)


def plain(node: YamlNode) -> Any:
    """Return the data without locations: dicts, lists and scalars."""
    if isinstance(node.value, Mapping):
        return {key: plain(child) for key, child in node.value.items()}
    if isinstance(node.value, tuple):
        return [plain(child) for child in node.value]
    return node.value


def find(node: YamlNode, path: Sequence[str | int]) -> tuple[YamlNode, tuple[str | int, ...]]:
    """Return the deepest existing node along ``path``, and the part of ``path`` that exists.

    Components that are not keys of the data are skipped: pydantic puts type names into its paths.
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
    """Return whether the key ``dotted`` is present with a non-null value or in its short form."""
    parts = parts_of(dotted)
    child, reached = find(node, parts)
    if not reached or child.value is None:
        return False
    return reached == tuple(parts) or not isinstance(child.value, Mapping)


def replace_at(node: YamlNode, parts: Sequence[str], value: YamlNode) -> YamlNode:
    """Return ``node`` with ``value`` at the key path ``parts``; missing mappings are created."""
    if not parts:
        return value
    children = dict(node.value) if isinstance(node.value, Mapping) else {}
    below = _widen(parts[0], children.get(parts[0]))
    if len(parts) > 1 and (below is None or not isinstance(below.value, Mapping)):
        below = YamlNode({}, value.span, value.key)
    children[parts[0]] = value if len(parts) == 1 or below is None else replace_at(below, parts[1:], value)
    return YamlNode(children, node.span, node.key)


def drop(node: YamlNode, path: Sequence[str | int]) -> YamlNode:
    """Return ``node`` without the mapping entry or whole list that ``path`` leads into."""
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
    """Merge ``over`` into ``base``: mappings merge key by key, null removes a key, everything else is replaced."""
    if not (isinstance(base.value, Mapping) and isinstance(over.value, Mapping)):
        return over
    children = dict(base.value)
    for key, child in over.value.items():
        below = _widen(key, children.get(key))
        if below is None:
            children[key] = child
        elif child.value is None:
            del children[key]
        else:
            children[key] = merge(below, child)
    return YamlNode(children, over.span, over.key)


def _widen(key: str, node: YamlNode | None) -> YamlNode | None:
    if node is not None and key in SHORT and isinstance(node.value, str):
        return YamlNode({SHORT[key]: node}, node.span, node.key)
    return node


def keys(node: YamlNode, prefix: str = "") -> Iterator[str]:
    """Yield the dotted paths of all mapping keys, depth first."""
    if isinstance(node.value, Mapping):
        for key, child in node.value.items():
            yield f"{prefix}{key}"
            yield from keys(child, f"{prefix}{key}.")


def dotted(path: Sequence[str | int]) -> str:
    """Format ``("verify", "images", 0)`` as ``verify.images[0]``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def parts_of(path: str) -> list[str | int]:
    """Split a path; the inverse of :func:`dotted`."""
    parts = re.findall(r"\[(\d+)\]|([^.\[]+)", path)
    return [int(index) if index else name for index, name in parts]


def printable(text: str) -> str:
    """Return ``text`` with bytes from the command line that are not UTF-8 escaped."""
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
    """Return a diagnostic at ``span``."""
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
