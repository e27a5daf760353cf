"""Code that runs in a worker: run one step in its staging directory and publish its output.

Each worker is a forked process that may die at any point: a result exists only once its journal line is written.
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
from mmbuild.base.progress import Amount, as_data, limited
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

_MUCH = 64 << 20
"""Bytes that take noticeable time to hash and to sync."""

Send = Callable[[dict[str, object]], None]
"""Sends a message to the orchestrator."""


def run_job(directory: Path, job: WorkerJob, peak: MemorySampler, send: Send) -> int:
    """Run ``job`` in ``directory``; return the exit status. Never raises."""
    try:
        _redirect_streams(Path(job.log))
        report_to(lambda text: send({"job": job.name, "event": "waiting", "why": text[:500]}))
        os.environ.update(granted_environment(job.cores, job.gpus))  # the fork server set the other variables
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
    """Write the failure to a file, since it may be long; if that fails, send a short form through the pipe."""
    failure = describe(error, Path(job.store))
    try:
        write_failure(directory, failure)
    except OSError:
        short = {"message": failure.message[:1000], "code": failure.code, "hint": (failure.hint or "")[:1000]}
        send({"job": job.name, "event": "failed", **short})
    with suppress(OSError):
        print(failure.traceback, file=sys.stderr)


def describe(error: BaseException, store: Path) -> Failure:
    """Return an exception as data for the orchestrator."""
    translated = translate(error, store) if isinstance(error, OSError) else None
    reported = translated or error
    trace = "".join(traceback.format_exception(error))
    if isinstance(reported, MmbuildError):
        return Failure(reported.message, reported.code, reported.hint, _causes(reported), trace)
    line = traceback.format_exception_only(error)[-1].strip()
    return Failure(line, None, None, _causes(error), trace)


def _causes(error: BaseException) -> tuple[str, ...]:
    """Return the messages of the exceptions that ``error`` was raised from, nearest first."""
    messages: list[str] = []
    cause = error.__cause__
    while cause is not None and len(messages) < 8:
        messages.append(traceback.format_exception_only(cause)[-1].strip())
        cause = cause.__cause__
    return tuple(messages)


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
    if _size(out) >= _MUCH:  # in the seconds that this takes the step's last message would be wrong
        send({"job": job.name, "event": "progress", **as_data("storing the result", None)})
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


def _size(directory: Path) -> int:
    """Bytes of the files in ``directory``, links not followed."""
    return sum(
        os.lstat(os.path.join(root, name)).st_size for root, _, names in os.walk(directory) for name in names
    )


def _context(job: WorkerJob, directory: Path, store: Store, send: Send) -> StepContext:
    """Prepare the staging directory and change to it: the step sees only ``in/<name>`` and ``out``."""
    work = directory / "work"
    _make_empty(work)
    for name, digest in job.inputs.items():
        os.symlink(store.tree(digest), work / "in" / name)
        with suppress(PermissionError):  # the file may belong to another user
            os.utime(store.manifest(digest))  # gc reads the time of last use
    os.chdir(work)

    def progress(message: str, amount: Amount | float | None = None) -> None:
        send({"job": job.name, "event": "progress", **as_data(message[:250], amount)})

    return StepContext(
        params=job.params,
        out=Path("out"),
        inputs={name: Path("in", name) for name in job.inputs},
        locators=job.locators,
        sources=job.sources,
        target=job.target,
        label=job.label,
        cores=job.cores,
        gpus=tuple(job.gpus),
        progress=limited(progress),
    )


def _make_empty(work: Path) -> None:
    """Create ``work/in`` and ``work/out``, both empty.

    A successful job leaves only ``in`` with its links; if there is anything else, the directory is removed.
    """
    try:
        if os.listdir(work) != ["in"]:
            raise OSError("an earlier step left files")
        for name in os.listdir(work / "in"):
            os.unlink(work / "in" / name)
    except OSError:
        shutil.rmtree(work, ignore_errors=True)
        (work / "in").mkdir(parents=True)
    (work / "out").mkdir()


def _redirect_streams(log: Path) -> None:
    """Redirect standard output and error to the action's log, and standard input from the null device."""
    target = _open_log(log)
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.close(target)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    sys.stdout = _stream(1)  # line-buffered, so that the log of a killed worker is complete
    sys.stderr = _stream(2)


def _open_log(log: Path) -> int:
    """Open the log, truncated. If it cannot be opened, use the null device: a missing log must not fail the build."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        target = os.open(log, flags, 0o666)
        status = os.fstat(target)
        if stat.S_ISREG(status.st_mode):
            if status.st_size:
                os.ftruncate(target, 0)
            return target
        os.close(target)
    except OSError:
        pass
    return os.open(os.devnull, os.O_WRONLY)


class _Lenient(io.FileIO):
    """File that drops what cannot be written, so that a full disk does not stop the step."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


def _stream(descriptor: int) -> io.TextIOWrapper:
    raw = _Lenient(descriptor, "w", closefd=False)
    return io.TextIOWrapper(io.BufferedWriter(raw), "utf-8", "backslashreplace", line_buffering=True)


def _limit_threads(cores: int) -> None:
    """Set torch's thread count: torch read the environment when the fork server imported it."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(cores)
