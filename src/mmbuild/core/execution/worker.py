"""The inside of a worker: run one step in its staging directory and publish what it wrote.

Runs in a process that was forked for it. It may die at any point: nothing counts before the journal line.
"""

from __future__ import annotations

import io
import os
import shutil
import stat
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmbuild.base.errors import MmbuildError
from mmbuild.core.execution.job import Failure, WorkerJob, write_failure
from mmbuild.core.execution.memory_sampler import MemorySampler
from mmbuild.core.execution.publish_check import confirm, seen_sources
from mmbuild.core.execution.worker_environment import granted_environment
from mmbuild.core.steps.context import StepContext
from mmbuild.core.steps.registry import StepSpec, load
from mmbuild.core.store.action_cache import Record, append
from mmbuild.core.store.disk_errors import translate
from mmbuild.core.store.integrity import check_inputs
from mmbuild.core.store.layout import Store
from mmbuild.core.store.locks import report_to
from mmbuild.core.store.publish import publish

Send = Callable[[dict[str, object]], None]
"""Sends one message to the orchestrator."""


def run_job(directory: Path, job: WorkerJob, peak: MemorySampler, send: Send) -> int:
    """Run ``job`` in ``directory``; returns the exit status and never raises."""
    try:
        _redirect_streams(Path(job.log))
        report_to(lambda text: send({"job": job.name, "event": "waiting", "why": text[:500]}))
        os.environ.update(granted_environment(job.cores, job.gpus))  # the rest is listed already
        record = _build(job, directory, peak, send)
        data = {} if job.journal else {"record": asdict(record)}
        send({"job": job.name, "event": "done", "digest": record.digest, **data})
        return 0
    except BaseException as error:
        _write_failure(directory, job, error, send)
        return 1
    finally:
        with suppress(OSError):  # the disk of the log may be full
            sys.stdout.flush()
            sys.stderr.flush()


def _write_failure(directory: Path, job: WorkerJob, error: BaseException, send: Send) -> None:
    """In a file, since it may be long; where the disk takes no file, in short through the pipe."""
    failure = describe(error, Path(job.store))
    try:
        write_failure(directory, failure)
    except OSError:
        short = {"message": failure.message[:1000], "code": failure.code, "hint": (failure.hint or "")[:1000]}
        send({"job": job.name, "event": "failed", **short})
    with suppress(OSError):
        print(failure.traceback, file=sys.stderr)


def describe(error: BaseException, store: Path) -> Failure:
    """An exception as data that crosses to the orchestrator."""
    reported = translate(error, store) if isinstance(error, OSError) else None
    shown = reported or error
    trace = "".join(traceback.format_exception(error))
    if isinstance(shown, MmbuildError):
        return Failure(shown.message, shown.code, shown.hint, _causes(shown), trace)
    line = traceback.format_exception_only(error)[-1].strip()
    return Failure(line, None, None, _causes(error), trace)


def _causes(error: BaseException) -> tuple[str, ...]:
    """Messages of the exceptions that ``error`` was raised from, nearest first."""
    found: list[str] = []
    cause = error.__cause__
    while cause is not None and len(found) < 8:
        found.append(traceback.format_exception_only(cause)[-1].strip())
        cause = cause.__cause__
    return tuple(found)


def _build(job: WorkerJob, directory: Path, peak: MemorySampler, send: Send) -> Record:
    store = Store(Path(job.store))
    used = check_inputs(store, job.inputs.values(), paranoid=job.paranoid)
    context = _context(job, directory, store, send)
    _limit_threads(job.cores)
    before = seen_sources(job)
    started = time.monotonic()
    load(StepSpec(job.step, "", job.entry))(context)
    seconds = time.monotonic() - started
    memory = peak.sample()
    out = directory / "work" / "out"
    artifact = publish(store, out, threads=job.cores, used=used, confirm=lambda: confirm(store, job, before))
    record = Record(
        key=job.key,
        definition=job.definition,
        inputs=dict(job.inputs),
        digest=artifact.digest,
        label=job.label,
        body=job.body,
        size=artifact.tree.size,
        seconds=round(seconds, 4),
        memory=memory,
        at=time.time(),
        host=os.uname().nodename,
    )
    if job.journal:
        append(store, record)
    return record


def _context(job: WorkerJob, directory: Path, store: Store, send: Send) -> StepContext:
    """Lay the staging out and enter it: the step sees ``in/<name>`` and ``out``, and no other name."""
    work = directory / "work"
    _make_empty(work)
    for name, digest in job.inputs.items():
        os.symlink(store.tree(digest), work / "in" / name)
        with suppress(PermissionError):  # of a colleague
            os.utime(store.manifest(digest))  # its last use, for gc
    os.chdir(work)

    def progress(message: str, fraction: float | None = None) -> None:
        send({"job": job.name, "event": "progress", "message": message[:500], "fraction": fraction})

    return StepContext(
        params=job.params,
        out=Path("out"),
        inputs={name: Path("in", name) for name in job.inputs},
        locators=job.locators,
        sources=job.sources,
        target=job.target,
        cores=job.cores,
        gpus=tuple(job.gpus),
        progress=progress,
    )


def _make_empty(work: Path) -> None:
    """``work/in`` and ``work/out``, both empty.

    An earlier job that ended well leaves ``in`` with its links alone; anything else goes with the directory.
    """
    try:
        if os.listdir(work) != ["in"]:
            raise OSError("an earlier step left something")
        for name in os.listdir(work / "in"):
            os.unlink(work / "in" / name)
    except OSError:
        shutil.rmtree(work, ignore_errors=True)
        (work / "in").mkdir(parents=True)
    (work / "out").mkdir()


def _redirect_streams(log: Path) -> None:
    """Standard output and error become the action's log; there is no input."""
    target = _open_log(log)
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.close(target)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    sys.stdout = _stream(1)  # a killed worker's last words are in the log
    sys.stderr = _stream(2)


def _open_log(log: Path) -> int:
    """The log, empty; where there can be none, nothing is kept: that is no reason to build nothing."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        target = os.open(log, flags, 0o666)
        found = os.fstat(target)
        if stat.S_ISREG(found.st_mode):
            if found.st_size:
                os.ftruncate(target, 0)
            return target
        os.close(target)
    except OSError:
        pass
    return os.open(os.devnull, os.O_WRONLY)


class _Lenient(io.FileIO):
    """A file whose disk may be full: what it does not take is dropped, so that a step can go on."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


def _stream(descriptor: int) -> io.TextIOWrapper:
    raw = _Lenient(descriptor, "w", closefd=False)
    return io.TextIOWrapper(io.BufferedWriter(raw), "utf-8", "backslashreplace", line_buffering=True)


def _limit_threads(cores: int) -> None:
    """torch read its thread count when the fork server imported it; tell it this action's."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(cores)
