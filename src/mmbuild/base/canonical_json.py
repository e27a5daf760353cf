"""Canonical JSON: exactly one text per value, so that its hash identifies the value."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

Json = Any


def canonical_json(value: Json) -> bytes:
    """Return the canonical JSON of ``value``: sorted keys, no spaces, UTF-8.

    Mappings need string keys; tuples become arrays. Integers and floats stay different (``1`` is not ``1.0``).

    Raises:
        TypeError: ``value`` contains something that is not plain JSON data.
        ValueError: ``value`` contains NaN, an infinity, or text that is not Unicode.
    """
    _check_plain(value)
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=dict
    )
    return text.encode("utf-8")


def hash_json(value: Json) -> str:
    """Return the BLAKE3 digest (hex) of the canonical JSON of ``value``."""
    from blake3 import blake3

    return blake3(canonical_json(value)).hexdigest()


def _check_plain(value: Json) -> None:
    """Refuse values that ``json`` would silently convert (integer keys, enums, subclasses)."""
    kind = type(value)
    if value is None or kind in (str, int, float, bool):
        return
    if kind in (list, tuple):
        for item in value:
            _check_plain(item)
        return
    if isinstance(value, Mapping):
        for key, item in value.items():
            if type(key) is not str:
                raise TypeError(f"a key of a mapping must be text, not {key!r}")
            _check_plain(item)
        return
    raise TypeError(f"{value!r} ({kind.__name__}) is not plain JSON data")
