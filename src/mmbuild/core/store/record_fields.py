"""Checks plain data from the store's files against a table of fields before it becomes a dataclass."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from mmbuild.base.field_checks import fits, is_digest, is_inner_path

_MOST = 1 << 62
"""Limit for numbers of bytes or nanoseconds: SQLite and file system interfaces take 63 bits."""


@dataclass(frozen=True, slots=True)
class FieldKind:
    """Type of a field.

    Attributes:
        words: Name of the type in messages.
        holds: Returns whether a value has this type.
    """

    words: str
    holds: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < _MOST


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < _MOST


def _is_text(value: Any) -> bool:
    return type(value) is str


def _is_location(value: Any) -> bool:
    """Return whether a value is an absolute path that the file system accepts."""
    return type(value) is str and value.startswith("/") and fits(value)


NUMBER = FieldKind("a number", _is_number)
COUNT = FieldKind("a number of bytes", _is_count)
FLAG = FieldKind("true or false", lambda value: type(value) is bool)
TEXT = FieldKind("text", _is_text)
DIGEST = FieldKind("64 hexadecimal digits", is_digest)
LOCATION = FieldKind("an absolute path", _is_location)
INNER_PATH = FieldKind("a path inside a directory", is_inner_path)
OBJECT = FieldKind("an object", lambda value: type(value) is dict)


_DIGESTS = re.compile("(?:[0-9a-f]{64}(?:,[0-9a-f]{64})*)?")


def _all_hold(kind: FieldKind, values: Iterable[Any]) -> bool:
    return all(map(kind.holds, values))


def _are_digests(values: Collection[Any]) -> bool:
    """Check all values at once: each apply reads thousands."""
    try:
        joined = ",".join(values)
    except TypeError:  # one is not text
        return False
    # The length tells a comma between two from a comma inside one.
    return len(joined) == max(0, 65 * len(values) - 1) and _DIGESTS.fullmatch(joined) is not None


def mapping_of(kind: FieldKind, keys: FieldKind = TEXT) -> FieldKind:
    """An object with keys of type ``keys`` and values of type ``kind``."""
    values_hold = _are_digests if kind is DIGEST else partial(_all_hold, kind)

    def holds(value: Any) -> bool:
        if type(value) is not dict or not values_hold(value.values()):
            return False
        return keys is TEXT or all(map(keys.holds, value))  # keys in JSON are always text

    return FieldKind(f"an object with {kind.words} for each key", holds)


def list_of(kind: FieldKind) -> FieldKind:
    """An array of ``kind``."""
    return FieldKind(
        f"an array of {kind.words}", lambda value: type(value) is list and all(map(kind.holds, value))
    )


def tuple_of(*kinds: FieldKind) -> FieldKind:
    """An array with one value of each of ``kinds``."""

    def holds(value: Any) -> bool:
        if type(value) is not list or len(value) != len(kinds):
            return False
        return all(kind.holds(item) for kind, item in zip(kinds, value, strict=True))

    return FieldKind(f"[{', '.join(kind.words for kind in kinds)}]", holds)


def either(*kinds: FieldKind) -> FieldKind:
    """One of ``kinds``."""
    words = " or ".join(kind.words for kind in kinds)
    return FieldKind(words, lambda value: any(kind.holds(value) for kind in kinds))


def or_null(kind: FieldKind) -> FieldKind:
    """``kind``, or null."""
    return FieldKind(f"{kind.words} or null", lambda value: value is None or kind.holds(value))


def require_fields(data: Any, table: Mapping[str, FieldKind]) -> dict[str, Any]:
    """Return ``data`` after checking its fields against ``table``. Missing fields are left to the dataclass.

    Raises:
        ValueError: A field is unknown or has the wrong type; the message names it.
    """
    if type(data) is not dict:
        raise ValueError("it is not an object")
    for name, value in data.items():
        kind = table.get(name)
        if kind is None:
            raise ValueError(f"it has an unknown field `{name[:60]}`")
        if not kind.holds(value):
            raise ValueError(f"its `{name}` is not {kind.words}")
    return data
