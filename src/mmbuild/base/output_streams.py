"""Standard output and standard error as every verb writes to them: cleaned, and without failures.

A stream that is missing, closed, full or without a reader loses what is written to it. The work of a verb goes on,
and :attr:`Output.lost` says at its end why.
"""

from __future__ import annotations

import errno
import io
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from mmbuild.base.errors import MmbuildError
from mmbuild.base.terminal_text import clean, clean_but_colors, encodable

_FULL = {
    errno.ENOSPC: "the device is full",
    errno.EDQUOT: "the quota is used up",
    errno.EBADF: "it is closed",
}


class Output(io.TextIOBase):
    """A text stream over standard output or standard error.

    Attributes:
        lost: Why text was lost; empty while all of it was written.
        broken: Whether the reader is gone, which is its right (`mmbuild plan | head`).
        uncleaned: The same stream for text that is cleaned already.
    """

    def __init__(self, under: TextIO | None, number: int) -> None:
        super().__init__()
        self._under = under
        self._number = number
        self.lost = "" if under is not None else "it is closed"
        self.broken = False
        self.uncleaned = Uncleaned(self)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """That of the stream below."""
        return getattr(self._under, "encoding", None) or "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        """What is done with characters that the encoding does not have: they are escaped."""
        return "strict"

    def write(self, text: str) -> int:
        """Write ``text``, cleaned."""
        cleaner = clean_but_colors if self.isatty() else clean
        self.put(cleaner(text))
        return len(text)

    def put(self, text: str) -> None:
        """Write ``text`` as it is, but for characters that the encoding does not have."""
        if self._gone or self._under is None:
            return
        try:
            self._under.write(encodable(text, self.encoding))
        except (OSError, ValueError) as error:
            self._lose(error)

    def flush(self) -> None:
        """Flush the stream below."""
        if self._gone or self._under is None:
            return
        try:
            self._under.flush()
        except (OSError, ValueError) as error:
            self._lose(error)

    def fileno(self) -> int:
        """Its descriptor."""
        return self._number if self._under is None else self._under.fileno()

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        with suppress(OSError, ValueError):
            return self._under is not None and self._under.isatty()
        return False

    def writable(self) -> bool:
        """True: what cannot be written is lost."""
        return True

    @property
    def _gone(self) -> bool:
        return bool(self.lost) or self.broken

    def _lose(self, error: Exception) -> None:
        if isinstance(error, BrokenPipeError):
            self.broken = True
        else:
            number = error.errno if isinstance(error, OSError) else errno.EBADF
            self.lost = _FULL.get(number or 0) or os.strerror(number or errno.EIO)
        if self._under in (sys.__stdout__, sys.__stderr__):
            _to_nothing(self._number)  # what is still in buffers must not fail when Python ends


class Uncleaned(io.TextIOBase):
    """An :class:`Output` without its cleaning."""

    def __init__(self, output: Output) -> None:
        super().__init__()
        self._output = output

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """As the output's."""
        return self._output.encoding

    def write(self, text: str) -> int:
        """Write ``text`` as it is."""
        self._output.put(text)
        return len(text)

    def flush(self) -> None:
        """As the output's."""
        self._output.flush()

    def fileno(self) -> int:
        """As the output's."""
        return self._output.fileno()

    def isatty(self) -> bool:
        """As the output's."""
        return self._output.isatty()

    def writable(self) -> bool:
        """True."""
        return True


@contextmanager
def guarded_streams() -> Iterator[tuple[Output, Output]]:
    """Standard output and standard error of this process as :class:`Output`, and Python's warnings in our form."""
    occupy((0, 1, 2))
    before, shown = (sys.stdout, sys.stderr), warnings.showwarning
    streams = Output(before[0], 1), Output(before[1], 2)
    sys.stdout, sys.stderr = streams
    if not sys.warnoptions:
        warnings.showwarning = _show_warning
    try:
        yield streams
    finally:
        for stream in streams:
            stream.flush()
        sys.stdout, sys.stderr = before
        warnings.showwarning = shown


def output_lost_error(why: str) -> MmbuildError:
    """The error for standard output that was lost."""
    return MmbuildError(
        f"standard output could not be written: {why}",
        code="MM780",
        hint="the work itself went on; give standard output a place with room, or /dev/null",
    )


def occupy(numbers: Iterable[int]) -> None:
    """Open the null device at descriptors that are closed: the next file to be opened would get one, and what is
    printed would be written into that file."""
    for number in sorted(numbers):
        try:
            os.fstat(number)
        except OSError:
            _to_nothing(number)


def _to_nothing(number: int) -> None:
    with suppress(OSError):
        empty = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        if empty != number:
            os.dup2(empty, number)
            os.close(empty)
        else:
            os.set_inheritable(number, True)


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """Those of users as ours; libraries' about their own code say nothing to a person."""
    if issubclass(category, UserWarning):
        print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)
