"""Text of files and names as a terminal can show it."""

from __future__ import annotations

import re

# Control characters (C0 without the tab, DEL, C1), breaks of lines, marks that turn the direction of a text, and
# halves of surrogate pairs.
_HIDDEN = re.compile(
    "[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def visible(text: str) -> str:
    """``text`` in one line, with everything that a terminal acts on as an escape: ``\\x1b[2J``."""
    return _HIDDEN.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    named = {0x0A: "\\n", 0x0D: "\\r"}.get(code)
    return named or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")
