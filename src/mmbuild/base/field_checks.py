"""Composable checks for types and ranges of fields in untrusted plain data.

A check takes a value and its name and returns a sentence with the problem, or None. Checks are built from other
checks:

>>> POINT = record({"x": whole(0, 10), "y": whole(0, 10), "label": optional(text(20))})
>>> POINT({"x": 3, "y": 11, "label": None}, "point")
'`point.y` is 11, not an integer from 0 to 10'
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from mmbuild.base.limits import NAME, PATH

Check = Callable[[Any, str], str | None]
"""``check(value, name)``: the problem, or None."""

DIGEST_LENGTH = 64
"""Hexadecimal digits of a BLAKE3 digest."""

_HEXADECIMAL = re.compile(r"[0-9a-f]+")
_MOST_PARTS = 64
"""Maximum depth of a relative path, so that creating its directories recursively cannot overflow the stack."""

_LONGEST_WORD = 300

_SHOWN = 60
"""Characters of an invalid value shown in a message."""


def any_value(value: Any, name: str) -> str | None:  # noqa: ARG001
    """Accept any value."""
    return None


def integer(low: int, high: int) -> Check:
    """An integer from ``low`` to ``high``; booleans are refused."""

    def check(value: Any, name: str) -> str | None:
        good = type(value) is int and low <= value <= high
        return None if good else wrong(value, name, f"an integer from {low:,} to {high:,}")

    return check


def number(low: float, high: float) -> Check:
    """An integer or a finite float from ``low`` to ``high``."""

    def check(value: Any, name: str) -> str | None:
        good = type(value) in (int, float) and low <= value <= high and math.isfinite(value)
        return None if good else wrong(value, name, f"a number from {low:g} to {high:g}")

    return check


def flag(value: Any, name: str) -> str | None:
    """True or false."""
    return None if type(value) is bool else wrong(value, name, "true or false")


def text(length: int, *, least: int = 0) -> Check:
    """Unicode text of ``least`` to ``length`` characters without NUL."""

    def check(value: Any, name: str) -> str | None:
        good = isinstance(value, str) and least <= len(value) <= length and "\0" not in value
        good = good and _is_unicode(value)
        return None if good else wrong(value, name, f"text of {least} to {length:,} characters")

    return check


def word(value: Any, name: str) -> str | None:
    """Printable text of up to 300 characters: a name, a version, a label."""
    good = isinstance(value, str) and len(value) <= _LONGEST_WORD and value.isprintable()
    return None if good else wrong(value, name, f"printable text of up to {_LONGEST_WORD} characters")


def one_of(*choices: str) -> Check:
    """One of a few texts."""

    def check(value: Any, name: str) -> str | None:
        good = isinstance(value, str) and value in choices
        return None if good else wrong(value, name, f"one of {', '.join(choices)}")

    return check


def digest(value: Any, name: str) -> str | None:
    """64 hexadecimal digits."""
    return None if is_digest(value) else wrong(value, name, "a digest of 64 hexadecimal digits")


def is_digest(value: Any) -> bool:
    """Return whether ``value`` is a hexadecimal BLAKE3 digest."""
    return isinstance(value, str) and len(value) == DIGEST_LENGTH and _is_hexadecimal(value)


def _is_hexadecimal(text: str) -> bool:
    """Return whether ``text`` consists of one or more lower-case hexadecimal digits."""
    return _HEXADECIMAL.fullmatch(text) is not None


def inner_path(value: Any, name: str) -> str | None:
    """A relative path with ``/`` separators that stays inside its directory."""
    good = is_inner_path(value) and "\\" not in value  # a separator on other systems
    return None if good else wrong(value, name, "a relative path inside its directory")


def is_inner_path(value: Any) -> bool:
    """Return whether ``value`` is a path inside a directory: relative, without ``.`` and ``..``, not too long."""
    if not isinstance(value, str) or value.count("/") >= _MOST_PARTS or not fits(value):
        return False
    return not any(part in ("", ".", "..") for part in value.split("/"))


def fits(path: str) -> bool:
    """Return whether Linux accepts ``path``: no NUL, no half of a surrogate pair, lengths within the limits."""
    try:
        encoded = path.encode()
    except UnicodeEncodeError:
        return False
    return b"\0" not in encoded and len(encoded) <= PATH and max(map(len, encoded.split(b"/"))) <= NAME


def optional(check: Check) -> Check:
    """Null, or what ``check`` accepts."""
    return lambda value, name: None if value is None else check(value, name)


def list_of(check: Check, most: int, *, least: int = 0) -> Check:
    """An array of ``least`` to ``most`` values that ``check`` accepts."""

    def every(value: Any, name: str) -> str | None:
        if not isinstance(value, (list, tuple)) or not least <= len(value) <= most:
            return wrong(value, name, f"an array of {least} to {most:,} values")
        problems = (check(item, f"{name}[{index}]") for index, item in enumerate(value))
        return next((problem for problem in problems if problem), None)

    return every


def mapping_of(check: Check, most: int, *, key: Check | None = None) -> Check:
    """An object of up to ``most`` values that ``check`` accepts, under names that ``key`` accepts."""

    def every(value: Any, name: str) -> str | None:
        if not isinstance(value, Mapping) or len(value) > most:
            return wrong(value, name, f"an object of up to {most:,} values")
        for known, item in value.items():
            problem = (key(known, f"a name in {name}") if key else None) or check(item, f"{name}.{known}")
            if problem:
                return problem
        return None

    return every


def record(fields: Mapping[str, Check], *, may_lack: Collection[str] = (), closed: bool = True) -> Check:
    """An object with ``fields``.

    Args:
        fields: Check by name.
        may_lack: Names that may be missing.
        closed: Whether other names are refused.
    """

    def check(value: Any, name: str) -> str | None:
        if not isinstance(value, Mapping):
            return wrong(value, name, "an object")
        inside = f"{name}." if name else ""
        for known, check_field in fields.items():
            if known not in value:
                if known not in may_lack:
                    return f"`{inside}{known}` is missing"
                continue
            problem = check_field(value[known], inside + known)
            if problem:
                return problem
        unknown = next((other for other in value if other not in fields), None) if closed else None
        return None if unknown is None else f"`{_shown(inside + str(unknown))}` is not a known field"

    return check


def wrong(value: Any, name: str, expected: str) -> str:
    """Return the sentence about a value that is not ``expected``."""
    return f"`{_shown(name)}` is {_described(value)}, not {expected}"


def _described(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"an object of {len(value):,} values"
    if isinstance(value, (list, tuple)):
        return f"an array of {len(value):,} values"
    if isinstance(value, str):
        return f"`{_shown(value)}`" if value else "empty text"
    return (
        {None: "null", True: "true", False: "false"}.get(value, str(value)) if _is_word(value) else str(value)
    )


def _is_word(value: Any) -> bool:
    return value is None or isinstance(value, bool)


def _shown(value: str) -> str:
    kept = value if len(value) <= _SHOWN else value[:_SHOWN] + "..."
    return "".join(sign if sign.isprintable() else f"\\u{ord(sign):04x}" for sign in kept)


def _is_unicode(value: str) -> bool:
    return not any("\ud800" <= sign <= "\udfff" for sign in value) if not value.isascii() else True
