"""Standard output and standard error for all commands: control characters are escaped, and writes never fail.

Text written to a stream that is missing, closed, full or without a reader is lost. The command continues, and
:attr:`Output.lost` gives the reason at its end.
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
        lost: Why text was lost; empty if nothing was lost.
        broken: Whether the reader has closed the pipe, which is not an error (`mmbuild plan | head`).
        used: Whether anything was written.
        uncleaned: The same stream for text that is already escaped.
    """

    def __init__(self, under: TextIO | None, number: int) -> None:
        super().__init__()
        self._under = under
        self._number = number
        self.lost = "" if under is not None else "it is closed"
        self.broken = False
        self.used = False
        self.uncleaned = Uncleaned(self)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Encoding of the underlying stream."""
        return getattr(self._under, "encoding", None) or "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        """Always ``strict``: characters missing from the encoding are escaped before writing."""
        return "strict"

    def write(self, text: str | bytes) -> int:
        """Write ``text`` with control characters escaped; click writes completions for shells as UTF-8."""
        if isinstance(text, bytes):
            text = text.decode("utf-8", "replace")
        cleaner = clean_but_colors if self.isatty() else clean
        self.put(cleaner(text))
        return len(text)

    def put(self, text: str) -> None:
        """Write ``text``, escaping only characters missing from the encoding."""
        self.used = self.used or bool(text)
        if self._gone or self._under is None:
            return
        try:
            self._under.write(encodable(text, self.encoding))
        except (OSError, ValueError) as error:
            self._lose(error)

    def flush(self) -> None:
        """Flush the underlying stream."""
        if self._gone or self._under is None:
            return
        try:
            self._under.flush()
        except (OSError, ValueError) as error:
            self._lose(error)

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._number if self._under is None else self._under.fileno()

    def isatty(self) -> bool:
        """Return whether it is a terminal."""
        with suppress(OSError, ValueError):
            return self._under is not None and self._under.isatty()
        return False

    def writable(self) -> bool:
        """Always True: text that cannot be written is lost."""
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
            _open_null_at(self._number)  # flushing buffers when Python exits must not fail


class Uncleaned(io.TextIOBase):
    """An :class:`Output` that does not escape control characters."""

    def __init__(self, output: Output) -> None:
        super().__init__()
        self._output = output

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """As the output's."""
        return self._output.encoding

    def write(self, text: str) -> int:
        """Write ``text`` unchanged."""
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
    """Replace the standard streams with :class:`Output`, and print Python warnings as ``warning:`` lines."""
    _occupy((0, 1, 2))
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


def output_used() -> bool:
    """Whether this command, or a process that has its standard output, printed anything there."""
    return isinstance(sys.stdout, Output) and sys.stdout.used


def note_output_used() -> None:
    """Note that another process printed to the standard output of this one."""
    if isinstance(sys.stdout, Output):
        sys.stdout.used = True


def output_lost_error(reason: str) -> MmbuildError:
    """Return the error for lost standard output."""
    return MmbuildError(
        f"standard output could not be written: {reason}",
        code="MM780",
        hint="the command's work was done; redirect standard output to a disk with free space, or to /dev/null",
    )


def _occupy(numbers: Iterable[int]) -> None:
    """Open the null device at closed descriptors.

    Otherwise the next opened file would get such a descriptor, and printed text would be written to that file.
    """
    for number in sorted(numbers):
        try:
            os.fstat(number)
        except OSError:
            _open_null_at(number)


def _open_null_at(number: int) -> None:
    with suppress(OSError):
        empty = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        if empty != number:
            os.dup2(empty, number)
            os.close(empty)
        else:
            os.set_inheritable(number, True)


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """Print user warnings; warnings of libraries about their own code are not useful to users."""
    if issubclass(category, UserWarning):
        print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)
