"""Splits a stream of server-sent events (WHATWG HTML, section 9.2) into the data of each event."""

from __future__ import annotations

import re

LONGEST = 1_000_000
"""Bytes of an event. A chunk of an answer takes a few hundred."""

_LINE_END = re.compile(rb"\r\n|\n|\r(?!\Z)")  # a carriage return at the end may be half of a pair


class EventTooLongError(ValueError):
    """An event is longer than :data:`LONGEST`."""


class EventStream:
    """Takes bytes as they arrive. Names, ids and comments are ignored, as is an event without its blank line."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, received: bytes) -> list[bytes]:
        """The data of each event that ``received`` completes.

        Raises:
            EventTooLongError: The current event is longer than :data:`LONGEST`.
        """
        may_end = self._rest[-1:] == b"\r" or b"\n" in received or b"\r" in received
        self._rest += received
        complete = self._complete() if may_end else []
        if len(self._rest) + self._size > LONGEST:
            raise EventTooLongError
        return complete

    def _complete(self) -> list[bytes]:
        *lines, rest = _LINE_END.split(bytes(self._rest))
        self._rest = bytearray(rest)
        return [data for line in lines if (data := self._take(line)) is not None]

    def _take(self, line: bytes) -> bytes | None:
        """Add a line; the event's data if it is the blank line after it."""
        if line:
            name, _, value = line.partition(b":")
            if name == b"data":
                self._data.append(value.removeprefix(b" "))
                self._size += len(line)
            return None
        data, self._data, self._size = self._data, [], 0
        return b"\n".join(data) if data else None
