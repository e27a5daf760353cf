"""A process that forks workers.

Not ``multiprocessing``'s: that one runs the user's main module again in each worker, which a script without
a main guard does not survive, and it gives no resource usage of the workers it reaped.

It stays single-threaded, so that forking is safe, and imports while it is idle what the coming steps
need. Requests arrive on standard input, one a line; messages leave on the file descriptor given as the
first argument, one JSON object a line (a pipe: lines below PIPE_BUF from several workers never mix). When its
input ends (the orchestrator finished or died) it ends its workers with everything they started.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import select
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from mmbuild.execute.worker import run_job

_PR_SET_PDEATHSIG = 1


def main(events: int, preload: list[str]) -> None:
    """Serve until standard input ends.

    Other inherited descriptors are left open: among them is the orchestrator's hold on the store, which so
    lasts until the last worker has ended.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    prctl = ctypes.CDLL(None).prctl
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    os.set_blocking(wake_read, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    _import_all(["mmbuild.store.publish", "blake3", "mmbuild.canonical"])
    workers: dict[int, str] = {}
    pending = b""
    open_input = True
    while open_input:
        ready, _, _ = select.select([0, wake_read], [], [], 0 if preload else None)
        if not ready and preload:
            _import_all([preload.pop(0)])
        if wake_read in ready:
            os.read(wake_read, 4096)
        _reap(workers, events)
        if 0 in ready:
            chunk = os.read(0, 65536)
            open_input = bool(chunk)
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                _serve(os.fsdecode(line), workers, events, prctl)
    _end(workers)


def _serve(line: str, workers: dict[int, str], events: int, prctl: Callable[..., int]) -> None:
    verb, _, rest = line.partition(" ")
    if verb == "kill":
        for worker, name in workers.items():
            if name == rest:
                _kill(worker, signal.SIGKILL)
        return
    directory = Path(rest)
    worker = os.fork()
    if worker == 0:
        _become_worker(directory, events, prctl)
    workers[worker] = directory.name


def _become_worker(directory: Path, events: int, prctl: Callable[..., int]) -> None:
    """Never returns. A session of its own, so that it can be ended with all that it starts."""
    status = 1
    try:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.set_inheritable(events, False)
        status = run_job(directory, lambda message: _send(events, message))
    finally:
        os._exit(status)


def _send(events: int, message: dict[str, object]) -> None:
    os.write(events, json.dumps(message).encode() + b"\n")


def _reap(workers: dict[int, str], events: int) -> None:
    while workers:
        worker, status, usage = os.wait4(-1, os.WNOHANG)
        if worker == 0:
            return
        name = workers.pop(worker, None)
        if name is not None:
            _kill(worker, signal.SIGKILL)  # what it started and left behind
            _send(
                events,
                {
                    "job": name,
                    "event": "exit",
                    "status": os.waitstatus_to_exitcode(status),
                    "rss": usage.ru_maxrss,
                },
            )


def _end(workers: dict[int, str]) -> None:
    """The orchestrator is gone or done: nothing that is unfinished will count."""
    for worker in workers:
        _kill(worker, signal.SIGKILL)


def _kill(worker: int, number: signal.Signals) -> None:
    try:
        os.killpg(worker, number)
    except (ProcessLookupError, PermissionError):
        return


def _import_all(names: list[str]) -> None:
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError:  # the step that needs it says so in its own words
            continue


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
