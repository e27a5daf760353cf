"""What runs on a node, in a process of Ray: answering what the driver asks, and running one action.

The action itself runs where it does on one machine, in a process forked by a fork server of its own. The fork server
ends it with everything it started when this process goes, however that happens.
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
"""How often a cancellation is noticed, and a log looked at."""

_CHUNK = 1 << 20
_own: dict[str, str | None] = {}
"""What this process had of the variables that it has from the driver now. Ray keeps processes for later tasks."""

_LEFT = 16 << 20
"""Bytes of a file that a failed action left and that is brought to the driver."""


def inspect_node(question: NodeProbe) -> NodeInfo:
    """What this node is, by the driver's question."""
    _apply_environment(question.environment)
    return NodeInfo(
        host=os.uname().nodename,
        root=seen_root(question),
        differences=differences(question.versions, _versions(question.versions)),
        missing=frozenset(path for path in question.paths if not os.path.exists(path)),
        isa=host.cpu_isa(),
    )


def work(order: TaskSpec) -> Messages:
    """Run an action; yields the messages of :class:`mmbuild.core.execution.executor.Running`, and besides

    ``unfit`` (why, node) the node cannot do it, nothing has been done; ``placed`` (node, host, gpus) it begins;
    ``log`` (data) and ``left`` (name, data), bytes of what lies in the node's own store; ``carried``, with ``done``:
    the result is in the shared store.
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
                last = message  # told when the store is let go: the driver's next step may be a gc
            else:
                yield message
    except MmbuildError as error:
        yield {"event": "failed", "message": error.message, "code": error.code, "hint": error.hint}
    yield last


def _apply_environment(environment: Mapping[str, str]) -> None:
    """Give this process the driver's variables, in the place of those of an earlier apply of the same driver."""
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
    except ImportError:  # MMBUILD_STEPS names a module that is not here
        return versions_of((), packages)


def _unfit(order: TaskSpec, answer: NodeInfo) -> str:
    if answer.differences:
        return ", ".join(answer.differences)
    if answer.root is None and order.shared is None:
        return "it does not see the driver's store"
    missing = sorted(answer.missing.intersection(order.job.locators.values()))
    return f"`{missing[0]}` is not there" if missing else ""


def _in_driver_store(order: TaskSpec, job: WorkerJob, store: Store) -> Messages:
    """Everything lies where the driver sees it too."""
    place = store.root / order.directory
    place.parent.mkdir(exist_ok=True)
    with shared_lock(store) as hold, _forking(place.parent, order, hold.descriptor) as workers:
        place.mkdir()
        workers.take(place)
        yield from _messages(workers, _at(job, store), follow=False)


def _run_in_own_store(order: TaskSpec, job: WorkerJob) -> Messages:
    """Inputs come from the shared store, and the result goes there."""
    from mmbuild.team.ray.artifact_transfer import ArtifactTransfer

    assert order.shared is not None
    store = open_store(os.environ.get(NODE_STORE))
    carrier = ArtifactTransfer.of(store, order.shared)
    if job.inputs:
        yield _progress("bringing inputs to the node")
    with shared_lock(store) as hold:
        carrier.pull(tuple(job.inputs.values()))
        with staging(store) as place, _forking(place, order, hold.descriptor) as workers:
            for message in _messages(workers, _at(job, store), follow=True):
                if message["event"] == "done":
                    yield _progress("bringing the result from the node")
                    carrier.push(message["digest"])
                    yield {**message, "carried": True}
                    continue
                if message["event"] == "exit":
                    yield from _collect_outputs(place / "1")
                yield message


def _forking(place: Path, order: TaskSpec, hold: int) -> Any:
    return start_workers(place, order.preload, hold, path=_modules(), detached=True)


def _modules() -> list[str]:
    """Where the action looks for modules: not among those that Ray brings for itself."""
    import ray

    inside = os.path.dirname(ray.__file__) + os.sep
    return [entry or os.getcwd() for entry in sys.path if not entry.startswith(inside)]


def _at(job: WorkerJob, store: Store) -> WorkerJob:
    """``job`` with paths of this node."""
    return replace(job, store=str(store.root), log=str(store.log(job.key)))


def _messages(workers: WorkerPool, job: WorkerJob, *, follow: bool) -> Messages:
    """What the worker says until it has ended with all that it started; with the log where nobody else sees it."""
    log = _Tail(Path(job.log)) if follow else None
    if log is not None:
        Path(job.log).unlink(missing_ok=True)
    workers.start(job)
    done: dict[str, Any] | None = None
    while True:
        heard = workers.messages(_POLL_SECONDS)
        if log is not None:
            yield from log.fresh()
        for message in heard:
            if message["event"] == "done":
                done = message
            elif message["event"] == "exit":
                yield done or message
                return
            else:
                yield message


class _Tail:
    """The growing log of an action, piece by piece."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset = path, 0

    def fresh(self) -> Messages:
        with suppress(FileNotFoundError), closing(open(self._path, "rb")) as stream:
            stream.seek(self._offset)
            while data := stream.read(_CHUNK):
                self._offset += len(data)
                yield {"event": "log", "data": data}


def _collect_outputs(directory: Path) -> Messages:
    """What a failed action leaves for the driver: why, and the files it wrote until then."""
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory)
        required = name.parts[0] == "failure.json" or name.parts[:2] == ("work", "out")
        if required and path.is_file() and path.stat().st_size <= _LEFT:
            yield {"event": "left", "name": str(name), "data": path.read_bytes()}


def _progress(message: str) -> dict[str, Any]:
    return {"event": "progress", "message": message, "fraction": None}
