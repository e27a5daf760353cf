"""Parses untrusted JSON within limits, and refuses invalid input with one sentence.

Python's parser accepts more than JSON (NaN, infinities, numbers of any length, lone surrogates) and is recursive.
The result here is plain data that can be traversed, compared and written again.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from typing import Any, NoReturn

from mmbuild.base.limits import DIGITS, Limit

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class JsonProblemError(ValueError):
    """The problem with the text, as the end of a sentence whose subject is the file."""


class JsonSyntaxError(JsonProblemError):
    """The text is not JSON.

    Attributes:
        reason: Why, without the place.
        column: Column in its line, characters from 1.
    """

    def __init__(self, reason: str, line: int, column: int) -> None:
        super().__init__(f"is not JSON ({reason} at line {line}, column {column})")
        self.reason, self.column = reason, column


def parse_json(data: bytes, limit: Limit, *, unique_names: bool = False) -> Any:
    """Parse the JSON text ``data`` (UTF-8 without a byte order mark, RFC 8259).

    Args:
        data: The text.
        limit: Limits for its kind of text.
        unique_names: Refuse duplicate names in an object, of which parsers use either the first or the last.

    Raises:
        JsonProblemError: It is not JSON, or exceeds ``limit``; it contains NaN, an infinity, a number that does not
            fit a float or has more than 40 digits, or text that is not Unicode.
    """
    if len(data) > limit.size:
        raise JsonProblemError(f"is larger than {limit.size:,} bytes, the limit for {limit.kind}")
    brackets = data.count(b"[") + data.count(b"{")
    if brackets + data.count(b",") > limit.values:
        raise JsonProblemError(f"contains more than {limit.values:,} values, the limit for {limit.kind}")
    value = _decoded(data, limit, _STRICT if unique_names else _DECODER)
    if brackets > limit.depth or len(data) > limit.length:
        _check_shape(value, limit, lengths=len(data) > limit.length)
    if _SURROGATE.search(data):
        _check_unicode(value)
    return value


def _decoded(data: bytes, limit: Limit, decoder: json.JSONDecoder) -> Any:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise JsonProblemError(f"is not UTF-8 text ({error.reason} at byte {error.start})") from None
    if text.startswith("\ufeff"):
        raise JsonProblemError("begins with a byte order mark, which JSON does not allow")
    try:
        return decoder.decode(text)
    except JsonProblemError:
        raise
    except RecursionError:
        raise _too_deep(limit) from None
    except json.JSONDecodeError as error:
        if not text.strip():
            raise JsonProblemError("is empty") from None
        raise JsonSyntaxError(error.msg, error.lineno, error.colno) from None


def _check_shape(value: Any, limit: Limit, *, lengths: bool) -> None:
    """Check depth, and with ``lengths`` those of texts, level by level, without recursion."""
    if lengths and isinstance(value, str):
        _check_lengths([value], limit)
    level, depth = [value], 0
    while level:
        below: list[Any] = []
        for item in level:
            kind = type(item)
            if kind not in (dict, list):
                continue
            children = item.values() if kind is dict else item
            if lengths:
                _check_lengths(item if kind is dict else (), limit)
                _check_lengths([child for child in children if type(child) is str], limit)
            below += [child for child in children if type(child) in (dict, list)]
        depth += 1
        if below and depth >= limit.depth:
            raise _too_deep(limit)
        level = below


def _check_lengths(texts: Any, limit: Limit) -> None:
    if max(map(len, texts), default=0) > limit.length:
        raise JsonProblemError(
            f"contains a text of more than {limit.length:,} characters, the limit for {limit.kind}"
        )


def _check_unicode(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise JsonProblemError("contains half of a surrogate pair, which is not a character") from None


def _too_deep(limit: Limit) -> JsonProblemError:
    return JsonProblemError(f"is nested deeper than {limit.depth} levels")


def _integer(text: str) -> int:
    if len(text) > DIGITS:
        raise JsonProblemError(f"contains a number with {len(text):,} digits")
    return int(text)


def _real(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise JsonProblemError(f"contains the number {text[:40]}, which is too large for a float")
    return value


def _constant(text: str) -> NoReturn:
    raise JsonProblemError(f"contains {text}, which is not a JSON number")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = Counter(names).most_common(1)[0][0]
        raise JsonProblemError(f"contains the name `{twice[:80]}` twice in one object")
    return found


_DECODER = json.JSONDecoder(parse_int=_integer, parse_float=_real, parse_constant=_constant)
_STRICT = json.JSONDecoder(
    parse_int=_integer, parse_float=_real, parse_constant=_constant, object_pairs_hook=_object
)
