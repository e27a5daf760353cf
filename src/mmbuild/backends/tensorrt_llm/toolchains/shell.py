"""Arguments as a shell reads them."""

from __future__ import annotations

import re
from collections.abc import Iterable

_BARE = re.compile(r"[A-Za-z0-9_./:=,+@%-]+")
_SPECIAL = re.compile(r'([\\"$`])')


def quote(argument: str) -> str:
    """``argument`` for bash: bare where that is safe, else in double quotes with everything special escaped.

    Double quotes are what people write, and what shellcheck finds nothing in; bash has no other special characters
    in them outside an interactive shell.
    """
    if _BARE.fullmatch(argument):
        return argument
    return '"' + _SPECIAL.sub(r"\\\1", argument) + '"'


def line(arguments: Iterable[str]) -> str:
    """``arguments`` quoted, in one line."""
    return " ".join(quote(argument) for argument in arguments)
