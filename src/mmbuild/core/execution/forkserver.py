"""A process that forks workers.

Not ``multiprocessing``'s fork server: that one runs the user's main module again in each worker, which breaks
scripts without a main guard, and it does not report the resource usage of the workers it reaped.

It stays single-threaded, so that forking is safe, and while idle it imports what the coming steps need. A job waits
until what it needs has been imported: its worker would import the same in as much time, and each of several workers
again. Jobs arrive on standard input, one per line: its name, the modules that it needs and its directory as JSON
texts, and the job, separated by tabs.
Messages are written to the file descriptor given as the first argument, one JSON object per line (to a pipe, so
lines below PIPE_BUF from several workers never mix). When its input ends (the orchestrator finished or died), it
kills its workers and every process they started.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import select
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from mmbuild.core.execution.job import parse_job
from mmbuild.core.execution.memory_sampler import SAMPLE_SECONDS, MemorySampler, new_peak
from mmbuild.core.execution.worker import run_job

_PR_SET_PDEATHSIG = 1
_NEEDED_BY_ALL = (
    "mmbuild.core.store.publish",
    "blake3",
    "mmbuild.base.canonical_json",
    "mmbuild.models.sources.resolve",
    "sqlite3",
    "concurrent.futures.thread",
)


@dataclass(frozen=True, slots=True)
class _Spare:
    """A worker forked in advance: its process id, and the pipe on which it waits for a job."""

    worker: int
    jobs: int
    peak: MemorySampler


@dataclass(slots=True)
class _Server:
    """Workers by process id with the names of their jobs, and the descriptor for messages."""

    events: int
    prctl: Callable[..., int]
    workers: dict[int, tuple[str, MemorySampler]] = field(default_factory=dict)
    sampled: float = 0.0
    spare: _Spare | None = None


def main(events: int, preload: list[str]) -> None:
    """Serve until standard input ends.

    Other inherited descriptors stay open: one of them holds the orchestrator's lock on the store, which therefore
    lasts until the last worker has ended.
    """
    server = _Server(events, ctypes.CDLL(None).prctl)
    wake = _wake_on_child()
    _import_all(_NEEDED_BY_ALL)
    gc.freeze()  # the collector would touch these objects and so copy their pages in each worker
    pending = b""
    waiting: list[bytes] = []
    open_input = True
    while open_input:
        if not preload and server.spare is None:
            server.spare = _fork(server)
        ready, _, _ = select.select([0, wake], [], [], _timeout(server, preload))
        if not ready and preload:
            _import_next(preload, waiting)
            gc.freeze()
        if wake in ready:
            os.read(wake, 4096)
        _reap(server)
        _sample(server)
        if 0 in ready:
            chunk = os.read(0, 65536)
            open_input = bool(chunk)
            *lines, pending = (pending + chunk).split(b"\n")
            waiting += lines
        for line in [line for line in waiting if _needed(line).isdisjoint(preload)]:
            waiting.remove(line)
            _serve(server, line)
    _end(server)


def _needed(line: bytes) -> frozenset[str]:
    """Modules that are imported before a job's worker is forked."""
    return frozenset(json.loads(line.split(b"\t", 2)[1]))


def _import_next(preload: list[str], waiting: Iterable[bytes]) -> None:
    """Import the next module that the first waiting job needs, or else the next of all."""
    needed = next(map(_needed, waiting), frozenset())
    name = next((name for name in preload if name in needed), preload[0])
    preload.remove(name)
    _import_all([name])


def _wake_on_child() -> int:
    """Return a descriptor that becomes readable when a worker ends. Ctrl-C is left to the orchestrator."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    os.set_blocking(reader, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return reader


def _timeout(server: _Server, preload: list[str]) -> float | None:
    """Return how long to wait for input, in seconds; None for indefinitely."""
    if preload:
        return 0
    return SAMPLE_SECONDS if server.workers else None


def _sample(server: _Server) -> None:
    now = time.monotonic()
    if now - server.sampled < SAMPLE_SECONDS:
        return
    server.sampled = now
    for worker, (_, peak) in server.workers.items():
        peak.sample(worker)


def _serve(server: _Server, line: bytes) -> None:
    """Give the job to the spare worker, or to a new one."""
    name = line.partition(b"\t")[0].decode()
    chosen, server.spare = server.spare or _fork(server), None
    server.workers[chosen.worker] = name, chosen.peak
    try:
        with open(chosen.jobs, "wb") as jobs:
            jobs.write(line)
    except BrokenPipeError:  # it was killed; its exit is reported as that of any worker
        return


def _fork(server: _Server) -> _Spare:
    """Fork a worker that waits for a job. Done in advance, since a fork takes a third of a short action's time."""
    reader, writer = os.pipe()
    peak = new_peak()
    worker = os.fork()
    if worker == 0:
        os.close(writer)
        _become_worker(server, lambda: _await_job(server, reader, peak))
    os.close(reader)
    return _Spare(worker, writer, peak)


def _await_job(server: _Server, reader: int, peak: MemorySampler) -> int:
    with open(reader, "rb") as jobs:
        line = jobs.read()
    if not line:  # no job is left
        return 0
    _, _, where, text = line.split(b"\t", 3)
    return run_job(Path(json.loads(where)), parse_job(text), peak, partial(_send, server.events))


def _become_worker(server: _Server, body: Callable[[], int]) -> None:
    """Run ``body`` in its own session, so that it can be killed with its children. Never returns."""
    status = 1
    try:
        server.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.set_inheritable(server.events, False)
        status = body()
    finally:
        os._exit(status)


def _send(events: int, message: dict[str, object]) -> None:
    os.write(events, json.dumps(message).encode() + b"\n")


def _reap(server: _Server) -> None:
    while server.workers or server.spare:
        worker, status = os.waitpid(-1, os.WNOHANG)
        if worker == 0:
            return
        if server.spare is not None and server.spare.worker == worker:
            _drop_spare(server)
        name, peak = server.workers.pop(worker, (None, None))
        if name is None or peak is None:
            continue
        peak.close()
        _kill(worker)  # processes that it started and left behind
        message = {"job": name, "event": "exit", "status": os.waitstatus_to_exitcode(status)}
        _send(server.events, message)


def _end(server: _Server) -> None:
    """Kill all workers: the orchestrator has ended, so unfinished work is lost."""
    for worker in server.workers:
        _kill(worker)
    if server.spare is not None:
        _kill(server.spare.worker)
        _drop_spare(server)


def _drop_spare(server: _Server) -> None:
    if server.spare is not None:
        os.close(server.spare.jobs)
        server.spare.peak.close()
        server.spare = None


def _kill(worker: int) -> None:
    try:
        os.killpg(worker, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _import_all(names: Iterable[str]) -> None:
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError:  # the step that needs it reports a better error
            continue
