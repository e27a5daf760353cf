"""What to write instead of a value of the wrong type or with a unit."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

_PERCENT = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)\s*%")
_KIBI = re.compile(r"(\d{1,9})\s*[kK]")
_WITH_UNIT = re.compile(r"\d{1,9}(?:\.\d{1,9})?\s*([A-Za-z]{2,20})")
_TIGHT_PAIR = re.compile(r"([A-Za-z_]{1,100}):(\S{1,200})(?: .*)?")
_TIGHT_COMMENT = re.compile(r"(\S{1,200})#(?: .*)?")
_DIGITS = 16
_MOST = 1e15
"""Larger numbers are not written out."""


def wrong_type_hint(value: Any, expected: str, written: str) -> str | None:
    """Return what to do about a value of the wrong type.

    Args:
        value: The value.
        expected: The expected type in words, such as ``a whole number``.
        written: The value as it is in the file.

    Returns:
        A hint, or None.
    """
    if value is None:
        return "give a value, or leave the key out"
    if (hint := comment_hint(value)) is not None:
        return hint
    if expected == "a mapping" and isinstance(value, str) and (found := _TIGHT_PAIR.fullmatch(value)):
        return f"put a space after the colon: `{found[1]}: {found[2]}`"
    if expected == "text":
        return _text_hint(value, written)
    if expected == "a list" and isinstance(value, str | int | float):
        return f"put it in brackets: `[{written}]`"
    if expected.endswith("number"):
        return _number_hint(value, whole=expected == "a whole number")
    return None


def _text_hint(value: Any, written: str) -> str | None:
    if isinstance(value, int | float):
        return f"quote it: `'{written}'`"
    if isinstance(value, Mapping):
        return "put the text in quotes: a colon followed by a space makes it a mapping"
    return None


def _number_hint(value: Any, *, whole: bool) -> str | None:
    if isinstance(value, str) and value.isascii() and value.isdigit():
        # A number with a leading zero, such as 0128, is text without any quotes.
        return (
            f"write {int(value)}" if value.startswith("0") and len(value) < _DIGITS else "remove the quotes"
        )
    if isinstance(value, str) and (found := _PERCENT.fullmatch(value)):
        return None if whole else f"write {float(found[1]) / 100:g}"
    number = _whole(value) if whole else None
    if number is not None:
        return f"write {number}"
    unit = _WITH_UNIT.fullmatch(value) if isinstance(value, str) else None
    return f"remove `{unit[1]}`: the value is a number without a unit" if unit else None


def _whole(value: Any) -> int | None:
    """The whole number that ``4k``, ``192.0`` or ``1e3`` means, ``k`` being 1,024."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    if isinstance(value, str) and (found := _KIBI.fullmatch(value)):
        return int(found[1]) * 1024
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return int(number) if math.isfinite(number) and number.is_integer() and abs(number) < _MOST else None


def percent_hint(value: Any, most: Any) -> str | None:
    """Return what to write instead of a percentage where a fraction, at most 1, is expected."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if most != 1 or not is_number or not 1 < value <= 100:
        return None
    return f"write it as a fraction: {value:g} % is {value / 100:g}"


def comment_hint(value: Any) -> str | None:
    """Return what to do about a value that ends with what was meant as a comment, such as ``torch# or hf``."""
    found = _TIGHT_COMMENT.fullmatch(value) if isinstance(value, str) else None
    return f"a comment needs a space before its `#`: `{found[1]}  # ...`" if found else None


def foreign_character(text: str) -> str | None:
    """The first space that is no ordinary one, invisible character or wide colon, with its name; None without any.

    They come with text that is copied from web pages, documents and chats.
    """
    for sign in "" if text.isascii() else text:
        if sign == "\uff1a" or (unicodedata.category(sign) in ("Zs", "Cf") and sign != " "):
            return f"U+{ord(sign):04X} ({unicodedata.name(sign, 'unnamed').lower()})"
    return None


def foreign_hint(text: Any) -> str | None:
    """Return what to do about a key or a word with a character of :func:`foreign_character`."""
    found = foreign_character(text) if isinstance(text, str) else None
    return f"it contains {found}: type it again" if found else None
