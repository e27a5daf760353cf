"""Silence for libraries that write to standard error themselves, past Python: libtiff does, of every damaged file."""

from __future__ import annotations

import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_ONE_AT_A_TIME = threading.Lock()


@contextmanager
def quiet(*, native: bool = False) -> Iterator[None]:
    """No warnings of Python's inside the block.

    Args:
        native: Nothing on the process's standard error either, which other threads share meanwhile.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if native:
            with _ONE_AT_A_TIME, _descriptor_closed(2):
                yield
        else:
            yield


@contextmanager
def _descriptor_closed(number: int) -> Iterator[None]:
    """What is written to a descriptor inside the block is lost."""
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr.flush()
    try:
        kept = os.dup(number)
    except OSError:  # it is closed already
        yield
        return
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(nowhere, number)
        os.close(nowhere)
        yield
    finally:
        os.dup2(kept, number)
        os.close(kept)
