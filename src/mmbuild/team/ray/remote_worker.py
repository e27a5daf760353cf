"""Code that runs on a node in a Ray process: answers probes and runs actions.

As on a single machine, the action runs in a process forked by a fork server. When this process ends for any reason,
the fork server kills the action and everything it started.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmbuild.base import host
from mmbuild.base.errors import MmbuildError
from mmbuild.base.progress import as_data
from mmbuild.core.execution.job import WorkerJob
from mmbuild.core.execution.staging import staging
from mmbuild.core.execution.worker_pool import WorkerPool, start_workers
from mmbuild.core.steps.registry import steps
from mmbuild.core.store.layout import Store, open_store
from mmbuild.core.store.locks import shared_lock
from mmbuild.team.ray.protocol import (
    NODE_STORE,
    NodeInfo,
    NodeProbe,
    TaskSpec,
    differences,
    seen_root,
    versions_of,
)

Messages = Iterator[dict[str, Any]]

_POLL_SECONDS = 0.2
"""Interval for checking for cancellation and new log output."""

_CHUNK = 1 << 20
_own: dict[str, str | None] = {}
"""Original values of variables now set by the driver. Ray reuses processes for later tasks."""

_LEFT = 16 << 20
"""Maximum size of a failed action's output file that is sent to the driver, bytes."""


def inspect_node(question: NodeProbe) -> NodeInfo:
    """Answer the driver's probe of this node."""
    _apply_environment(question.environment)
    return NodeInfo(
        host=os.uname().nodename,
        root=seen_root(question),
        differences=differences(question.versions, _versions(question.versions)),
        missing=frozenset(path for path in question.paths if not os.path.exists(path)),
        isa=host.cpu_isa(),
    )


def work(order: TaskSpec) -> Messages:
    """Run an action; yield the messages of :class:`mmbuild.core.execution.executor.Running`.

    Further messages: ``unfit`` (why, node), the node cannot run it and did nothing; ``placed`` (node, host, gpus), it
    starts; ``log`` (data) and ``left`` (name, data), file contents from the node's own store. ``done`` also has
    ``carried`` if the result is in the shared store.
    """
    import ray

    answer, node = inspect_node(order.question), ray.get_runtime_context().get_node_id()
    why = _unfit(order, answer)
    if why:
        yield {"event": "unfit", "why": why, "node": node}
        return
    gpus = tuple(str(gpu) for gpu in ray.get_gpu_ids())
    yield {
        "event": "placed",
        "node": node,
        "host": answer.host,
        "gpus": list(gpus),
    }
    job = replace(order.job, gpus=gpus, journal=False)
    last: dict[str, Any] = {"event": "exit", "status": 1}
    try:
        ran = (
            _in_driver_store(order, job, Store(Path(answer.root)))
            if answer.root is not None
            else _run_in_own_store(order, job)
        )
        for message in ran:
            if message["event"] in ("done", "exit"):
                last = message  # sent after the store is unlocked: the driver may run gc next
            else:
                yield message
    except MmbuildError as error:
        yield {"event": "failed", "message": error.message, "code": error.code, "hint": error.hint}
    yield last


def _apply_environment(environment: Mapping[str, str]) -> None:
    """Apply the driver's environment, undoing variables left by an earlier apply."""
    for name, value in _own.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    _own.clear()
    _own.update({name: os.environ.get(name) for name in environment})
    os.environ.update(environment)


def _versions(packages: Iterable[str]) -> dict[str, str]:
    try:
        return versions_of(steps().values(), packages)
    except ImportError:  # MMBUILD_STEPS names a module that is not installed here
        return versions_of((), packages)


def _unfit(order: TaskSpec, answer: NodeInfo) -> str:
    if answer.differences:
        return ", ".join(answer.differences)
    if answer.root is None and order.shared is None:
        return "it cannot access the driver's store"
    missing = sorted(answer.missing.intersection(order.job.locators.values()))
    return f"`{missing[0]}` does not exist" if missing else ""


def _in_driver_store(order: TaskSpec, job: WorkerJob, store: Store) -> Messages:
    """Run the job in the driver's store."""
    place = store.root / order.directory
    place.parent.mkdir(exist_ok=True)
    with shared_lock(store) as hold, _forking(place.parent, order, hold.descriptor) as workers:
        place.mkdir()
        workers.take(place)
        yield from _messages(workers, _at(job, store), follow=False)


def _run_in_own_store(order: TaskSpec, job: WorkerJob) -> Messages:
    """Run the job in the node's own store: pull its inputs from the shared store, and push its result."""
    from mmbuild.team.ray.artifact_transfer import ArtifactTransfer

    assert order.shared is not None
    store = open_store(os.environ.get(NODE_STORE))
    carrier = ArtifactTransfer.of(store, order.shared)
    if job.inputs:
        yield _progress("pulling inputs to the node")
    with shared_lock(store) as hold:
        carrier.pull(tuple(job.inputs.values()))
        with staging(store) as place, _forking(place, order, hold.descriptor) as workers:
            for message in _messages(workers, _at(job, store), follow=True):
                if message["event"] == "done":
                    yield _progress("pushing the result from the node")
                    carrier.push(message["digest"])
                    yield {**message, "carried": True}
                    continue
                if message["event"] == "exit":
                    yield from _collect_outputs(place / "1")
                yield message


def _forking(place: Path, order: TaskSpec, hold: int) -> Any:
    return start_workers(place, order.preload, hold, path=_modules(), detached=True)


def _modules() -> list[str]:
    """Return the module search path of the action, without Ray's bundled modules."""
    import ray

    inside = os.path.dirname(ray.__file__) + os.sep
    return [entry or os.getcwd() for entry in sys.path if not entry.startswith(inside)]


def _at(job: WorkerJob, store: Store) -> WorkerJob:
    """Return ``job`` with paths on this node."""
    return replace(job, store=str(store.root), log=str(store.log(job.key)))


def _messages(workers: WorkerPool, job: WorkerJob, *, follow: bool) -> Messages:
    """Yield the worker's messages until it and its children have exited; with ``follow``, also its log."""
    log = _Tail(Path(job.log)) if follow else None
    if log is not None:
        Path(job.log).unlink(missing_ok=True)
    workers.start(job)
    done: dict[str, Any] | None = None
    while True:
        received = workers.messages(_POLL_SECONDS)
        if log is not None:
            yield from log.fresh()
        for message in received:
            if message["event"] == "done":
                done = message
            elif message["event"] == "exit":
                yield done or message
                return
            else:
                yield message


class _Tail:
    """Reads an action's growing log incrementally."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset = path, 0

    def fresh(self) -> Messages:
        with suppress(FileNotFoundError), closing(open(self._path, "rb")) as stream:
            stream.seek(self._offset)
            while data := stream.read(_CHUNK):
                self._offset += len(data)
                yield {"event": "log", "data": data}


def _collect_outputs(directory: Path) -> Messages:
    """Yield a failed action's failure file and partial output, for the driver."""
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory)
        required = name.parts[0] == "failure.json" or name.parts[:2] == ("work", "out")
        if required and path.is_file() and path.stat().st_size <= _LEFT:
            yield {"event": "left", "name": str(name), "data": path.read_bytes()}


def _progress(message: str) -> dict[str, Any]:
    return {"event": "progress", **as_data(message, None)}
