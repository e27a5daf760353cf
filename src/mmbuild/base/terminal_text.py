"""Escapes untrusted text for a terminal: no character may move the cursor, hide text or reverse its order.

Escaped are controls (C0, C1, DEL) except newline and tab, marks of writing direction, and line separators other than
newline. The form is JSON's ``\\uXXXX``, so that JSON keeps its meaning.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

_CONTROLS = r"\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff"
_COLOR = r"\x1b\[(?:0|2|31;1|32|33;1|36)m"
# Compiled on first use: most output is plain ASCII.
_control = cache(lambda: re.compile(f"[{_CONTROLS}]"))
_control_or_color = cache(lambda: re.compile(f"({_COLOR})|[{_CONTROLS}]"))


def clean(text: str, *, newline: str | None = None) -> str:
    """Return ``text`` with control characters escaped; ``newline``, if given, replaces newlines."""
    if newline is not None:
        text = text.replace("\n", newline)
    if text.isascii() and text.isprintable():
        return text
    return _control().sub(_escape, text)


def one_line(text: str) -> str:
    """:func:`clean` on one line: newlines and tabs are escaped too."""
    return clean(text.replace("\t", "\\t"), newline="\\n")


def clean_but_colors(text: str) -> str:
    """Return ``text`` with control characters escaped, except the colors that mmbuild itself uses."""
    if text.isascii() and text.isprintable():
        return text
    return _control_or_color().sub(lambda match: match[1] or _escape(match), text)


def encodable(text: str, encoding: str) -> str:
    """Return ``text`` with characters missing from ``encoding`` escaped."""
    if text.isascii():
        return text
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return "".join(sign if _has(encoding, sign) else _escaped(sign) for sign in text)
    return text


def raw(stream: Any) -> Any:
    """Return the stream for text that is already escaped and contains a display's own control sequences."""
    return getattr(stream, "uncleaned", stream)


def _escape(match: re.Match[str]) -> str:
    return _escaped(match[0])


def _escaped(sign: str) -> str:
    units = sign.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def _has(encoding: str, sign: str) -> bool:
    try:
        sign.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True
