"""Runs untrusted programs, such as templates, with limits on time and memory.

The work is done in a forked child with kernel limits, since no static check finds every infinite loop or growing
text. Only plain data is returned.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

from mmbuild.base.limits import MB

SECONDS = 1
"""CPU time limit; a chat template takes milliseconds."""
_TOO_LONG = f"runs for more than {SECONDS} second"
MEMORY = 256 * MB
"""Memory limit in addition to what the process already uses, bytes."""
OUTPUT = 16 * MB
"""Maximum size of the result, bytes."""
_WALL_SECONDS = 4 * SECONDS  # allows for a busy machine
_CHUNK = 1 << 16
_EXHAUSTED = 9


class BoundsExceededError(Exception):
    """The exceeded limit, as the end of a sentence whose subject is the program."""


def run_bounded(work: Callable[[], Any]) -> Any:
    """Return the result of ``work``, which must be plain JSON data.

    Raises:
        BoundsExceededError: It takes too long, too much memory, or returns too much.
        OSError: No process can be started.
    """
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        _work(work, receiving, sending)
    os.close(sending)
    try:
        data = _received(receiving)
    finally:
        os.close(receiving)
        _kill(child)
        _, status = os.waitpid(child, 0)
    if data is None:
        raise BoundsExceededError(_TOO_LONG)
    if len(data) > OUTPUT:
        raise BoundsExceededError(f"produces more than {OUTPUT // MB} MB")
    try:
        return json.loads(data)
    except ValueError:
        raise BoundsExceededError(_ending(status)) from None


def _work(work: Callable[[], Any], receiving: int, sending: int) -> NoReturn:
    """Run in the child. Never returns."""
    status = 1
    try:
        os.close(receiving)
        _limit()
        data = json.dumps(work()).encode()
        with os.fdopen(sending, "wb") as file:
            file.write(data[: OUTPUT + 1])
        status = 0
    except (MemoryError, RecursionError):
        status = _EXHAUSTED
    finally:
        os._exit(status)


def _limit() -> None:
    limit_memory()
    _limit_to(resource.RLIMIT_CPU, SECONDS)


def limit_memory() -> None:
    """Limit this process to :data:`MEMORY` bytes more than it uses now, and keep it from writing core files."""
    with open("/proc/self/statm", encoding="ascii") as file:
        now = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    _limit_to(resource.RLIMIT_AS, now + MEMORY)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _limit_to(kind: int, required: int) -> None:
    _, hard = resource.getrlimit(kind)
    limit = required if hard == resource.RLIM_INFINITY else min(required, hard)
    resource.setrlimit(kind, (limit, limit))


def _received(receiving: int) -> bytes | None:
    """Return what the child writes until it ends; None if it does not end in time."""
    parts: list[bytes] = []
    size, until = 0, time.monotonic() + _WALL_SECONDS
    while size <= OUTPUT:
        ready, _, _ = select.select([receiving], [], [], max(0.0, until - time.monotonic()))
        if not ready:
            return None
        part = os.read(receiving, _CHUNK)
        if not part:
            break
        parts.append(part)
        size += len(part)
    return b"".join(parts)


def _kill(child: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)


def _ending(status: int) -> str:
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL):
        return _TOO_LONG
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == _EXHAUSTED:
        return f"takes more than {MEMORY // MB} MB of memory"
    return "ends without a result"
