"""Driver-side task runner: one thread submits, monitors and retries each action.

An action is retried only if the node that ran it was lost, never if it failed.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmbuild.base.errors import MmbuildError
from mmbuild.base.progress import as_data
from mmbuild.core.execution.job import WorkerJob
from mmbuild.core.execution.run_plan import preload
from mmbuild.core.graph.action import Action
from mmbuild.core.steps.registry import StepSpec
from mmbuild.team.ray.node_selection import ClusterNode, alive, resources
from mmbuild.team.ray.protocol import TaskSpec
from mmbuild.team.ray.remote_worker import work

if TYPE_CHECKING:
    from mmbuild.team.ray.executor import Cluster

_LOSSES = 3
"""Number of lost nodes after which an action counts as failed."""

_WAITING_SECONDS = 5.0
"""Time without a node after which an action is reported as waiting, and the cluster is checked."""

_DEATH_SECONDS = 40.0
"""Time for Ray to notice a lost node; its default is five missed checks, 3 s apart."""

_POLITE_SECONDS = 10.0
"""Time for a cancelled action to end on its node before Ray's process there is killed."""


class _LostError(Exception):
    """The node that ran an action was lost."""


class _UnfitError(Exception):
    """A node rejected an action before it started."""

    def __init__(self, node: str, why: str) -> None:
        super().__init__(why)
        self.node = node


@dataclass(slots=True)
class TaskRunner:
    """The running actions; see :class:`mmbuild.core.execution.executor.Running`."""

    ray: Any
    cluster: Cluster
    place: Path
    specs: Mapping[str, StepSpec]
    _emitted: queue.SimpleQueue[dict[str, Any]] = field(default_factory=queue.SimpleQueue)
    _threads: dict[str, threading.Thread] = field(default_factory=dict)
    _streams: dict[str, Any] = field(default_factory=dict)
    _ending: threading.Event = field(default_factory=threading.Event)

    def start(self, job: WorkerJob, action: Action) -> Path:
        """Submit ``job``; return the directory of its first attempt."""
        directory = self.place / job.name
        thread = threading.Thread(target=self._follow, args=(job, action, directory), daemon=True)
        self._threads[job.name] = thread
        thread.start()
        return directory

    def messages(self, timeout: float | None) -> list[dict[str, Any]]:
        """Return messages from jobs, after waiting up to ``timeout`` seconds for one."""
        try:
            found = [self._emitted.get(timeout=timeout)]
        except queue.Empty:
            return []
        with suppress(queue.Empty):
            while True:
                found.append(self._emitted.get_nowait())
        return found

    def end(self) -> None:
        """Cancel running actions and wait until they have ended on their nodes."""
        self._ending.set()
        for force in (False, True):
            for stream in list(self._streams.values()):
                with suppress(self.ray.exceptions.RayError, ValueError):  # it may have just ended
                    self.ray.cancel(stream, force=force)
            deadline = time.monotonic() + _POLITE_SECONDS
            for thread in self._threads.values():
                thread.join(max(0.0, deadline - time.monotonic()))
            if not any(thread.is_alive() for thread in self._threads.values()):
                return

    def _follow(self, job: WorkerJob, action: Action, directory: Path) -> None:
        """Run all attempts of an action; its last message is ``done`` or ``exit``."""
        rejected_by: set[str] = set()
        losses = 0
        left = directory
        try:
            while True:
                try:
                    return self._attempt(job, action, left, rejected_by)
                except _UnfitError as unfit:
                    rejected_by.add(unfit.node)
                    self._warn(job, f"a node rejected `{job.label}`: {unfit}", "MM849")
                except _LostError as lost:
                    losses += 1
                    if losses == _LOSSES:
                        raise _given_up(job, f"it was lost with its node {losses} times") from lost
                    self._warn(job, f"`{job.label}` was lost with {lost}; it runs on another node", "MM845")
                    left = directory.with_name(f"{directory.name}-{losses + 1}")
        except MmbuildError as error:
            self._fail(job, error.message, error.code, error.hint)
        except Exception as error:
            if not self._ending.is_set():
                self._fail(job, f"{type(error).__name__}: {' '.join(str(error).split())[-500:]}", None, None)

    def _attempt(self, job: WorkerJob, action: Action, left: Path, rejected_by: set[str]) -> None:
        """Submit the action once; return when it has finished or failed.

        Raises:
            _LostError, _UnfitError: It did not finish and can be tried again.
            MmbuildError: MM846, there is no node for it; MM847; MM848.
        """
        nodes = self._supplied(job, self._nodes(job, action, rejected_by))
        Path(job.log).write_bytes(b"")
        stream = self._streams[job.name] = self._submit(job, action, left, nodes)
        if self._ending.is_set():  # too late to be cancelled by end()
            self.ray.cancel(stream)
        try:
            self._consume_messages(job, action, left, stream, rejected_by)
        finally:
            del self._streams[job.name]

    def _supplied(self, job: WorkerJob, nodes: list[ClusterNode]) -> list[ClusterNode]:
        """Return the nodes that can read the inputs from the driver's store or the shared store.

        Raises:
            MmbuildError: MM848, no node can.
        """
        seeing = [node for node in nodes if node.sees]
        if self.cluster.carrier is None or len(seeing) == len(nodes):
            return nodes
        try:
            for digest in job.inputs.values():
                self.cluster.carrier.push(digest)
        except MmbuildError as error:
            if not seeing:
                raise
            self._warn(job, error.message, error.code)
            return seeing
        return nodes

    def _consume_messages(
        self, job: WorkerJob, action: Action, left: Path, stream: Any, rejected_by: set[str]
    ) -> None:
        """Handle the node's messages until the action has ended."""
        where, reported = "", False
        while True:
            ready, _ = self.ray.wait([stream], timeout=_WAITING_SECONDS)
            if not ready:
                if not where:
                    self._nodes(job, action, rejected_by)
                    if not reported:
                        self._emit(job, event="waiting", why="no node of the cluster is free")
                    reported = True
                continue
            message = self._next(job, stream, where)
            if message["event"] == "unfit":
                raise _UnfitError(message["node"], message["why"])
            if message["event"] == "placed":
                where = message["node"]
            if self._handle_message(job, left, message):
                return

    def _handle_message(self, job: WorkerJob, left: Path, message: dict[str, Any]) -> bool:
        """Handle a message; return whether it was the last."""
        event = message["event"]
        if event == "placed":
            gpus = f", GPU {','.join(message['gpus'])}" if message["gpus"] else ""
            self._emit(
                job,
                event="progress",
                **as_data(f"on {message['host']}, node {message['node'][:8]}{gpus}", None),
            )
        elif event == "log":
            with open(job.log, "ab") as stream:
                stream.write(message["data"])
        elif event == "left":
            target = left / message["name"]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(message["data"])
        elif event == "done":
            if message.pop("carried", False) and self.cluster.carrier is not None:
                self.cluster.carrier.pull((message["digest"],))
            self._emit(job, **message)
        elif event == "exit":
            self._emit(job, **message, directory=str(left))
        else:
            self._emit(job, **message)
        return event in ("done", "exit")

    def _submit(self, job: WorkerJob, action: Action, left: Path, nodes: list[ClusterNode]) -> Any:
        carrier = self.cluster.carrier
        order = TaskSpec(
            self.cluster.question,
            job,
            str(left.relative_to(job.store)),
            tuple(preload([self.specs[job.step]])),
            carrier.shared.settings if carrier is not None else None,
        )
        remote = self.ray.remote(num_returns="streaming", max_retries=0)(work)
        return remote.options(
            name=f"mmbuild {job.label}", scheduling_strategy=self._where(nodes), **resources(action)
        ).remote(order)

    def _where(self, nodes: list[ClusterNode]) -> Any:
        """Return the scheduling strategy for ``nodes``; nodes with access to the store are preferred."""
        from ray.util.scheduling_strategies import In, NodeLabelSchedulingStrategy

        chosen, seeing = [node.id for node in nodes], [node.id for node in nodes if node.sees]
        if len(seeing) == len(chosen) and self.cluster.asked.intersection(alive(self.ray)) <= set(chosen):
            return "DEFAULT"  # includes nodes that have joined since
        soft = {"ray.io/node-id": In(*seeing)} if seeing else {}
        return NodeLabelSchedulingStrategy(hard={"ray.io/node-id": In(*chosen)}, soft=soft)

    def _nodes(self, job: WorkerJob, action: Action, rejected_by: set[str]) -> list[ClusterNode]:
        """Return the live nodes that can run ``action``.

        Raises:
            MmbuildError: MM846, there are none left.
        """
        up = alive(self.ray)
        nodes = [node for node in self.cluster.able(action) if node.id in up and node.id not in rejected_by]
        if not nodes:
            raise _given_up(job, "no remaining node can run it")
        return nodes

    def _next(self, job: WorkerJob, stream: Any, where: str) -> dict[str, Any]:
        """Return the next message of a ready stream, or raise the reason why there is none."""
        errors = self.ray.exceptions
        try:
            message: dict[str, Any] = self.ray.get(next(stream))
            return message
        except (errors.RayTaskError, errors.TaskCancelledError, StopIteration):
            raise
        except errors.OutOfMemoryError as error:
            raise _process_ended(job, "Ray ended it because the node's memory ran out") from error
        except errors.RayError as error:
            if not where or self._is_gone(where):
                raise _LostError(f"node {where[:8]}" if where else "a node, before it started") from error
            raise _process_ended(job, " ".join(str(error).split())[:300]) from error

    def _is_gone(self, where: str) -> bool:
        """Return whether a node is lost, after giving Ray time to notice."""
        deadline = time.monotonic() + _DEATH_SECONDS
        while where in alive(self.ray):
            if time.monotonic() > deadline or self._ending.wait(0.2):
                return False
        return True

    def _emit(self, this: WorkerJob, **message: Any) -> None:
        self._emitted.put({**message, "job": this.name})

    def _warn(self, job: WorkerJob, message: str, code: str) -> None:
        self._emit(job, event="warning", message=message, code=code, hint="")

    def _fail(self, job: WorkerJob, message: str, code: str | None, hint: str | None) -> None:
        self._emit(job, event="failed", message=message, code=code, hint=hint)
        self._emit(job, event="exit", status=1)


@contextmanager
def attempts(running: TaskRunner) -> Iterator[None]:
    """On exit, end running actions and everything they started."""
    try:
        yield
    finally:
        running.end()


def _given_up(job: WorkerJob, reason: str) -> MmbuildError:
    return MmbuildError(
        f"`{job.label}` was given up: {reason}",
        code="MM846",
        hint="find out why nodes disappear (`ray status`, their memory); apply again continues from here",
    )


def _process_ended(job: WorkerJob, reason: str) -> MmbuildError:
    return MmbuildError(
        f"Ray's process that ran `{job.label}` ended: {reason}",
        code="MM847",
        hint="if memory ran out, use fewer `--jobs` or larger nodes; see Ray's logs on that node",
    )
