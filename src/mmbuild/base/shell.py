"""Quotes arguments for bash the way that people write them."""

from __future__ import annotations

import re
from collections.abc import Iterable

_BARE = re.compile(r"[A-Za-z0-9_./:=,+@%-]+")
_SPECIAL = re.compile(r'([\\"$`])')


def quote(argument: str) -> str:
    """``argument`` quoted for bash: bare if safe, else in double quotes with special characters escaped.

    People write double quotes and shellcheck accepts them; a non-interactive bash has no other special characters in
    them.
    """
    if _BARE.fullmatch(argument):
        return argument
    return '"' + _SPECIAL.sub(r"\\\1", argument) + '"'


def line(arguments: Iterable[str]) -> str:
    """``arguments`` quoted, on one line."""
    return " ".join(quote(argument) for argument in arguments)
