"""Suppresses warnings, also of native libraries that write to standard error, as libtiff does for damaged files."""

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
    """Suppress Python warnings in the block.

    Args:
        native: Also suppress the process's standard error, which affects other threads.
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
    """Discard everything written to a descriptor in the block."""
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr.flush()
    try:
        kept = os.dup(number)
    except OSError:  # it is already closed
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
