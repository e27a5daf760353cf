"""Interface between the scheduling loop and the place where actions run: this machine or a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from mmbuild.core.execution.gpu_queue import GpuRequest
from mmbuild.core.execution.job import WorkerJob
from mmbuild.core.execution.options import Options
from mmbuild.core.execution.resources import Capacity
from mmbuild.core.graph.action import Action, Resources
from mmbuild.core.graph.plan import Plan
from mmbuild.core.steps.registry import StepSpec


class Running(Protocol):
    """Starts actions and receives their messages."""

    def start(self, job: WorkerJob, action: Action) -> Path:
        """Start ``job``, which is ``action`` with its granted resources.

        Returns:
            The directory where it leaves ``failure.json`` and ``work/out`` if it fails.
        """

    def messages(self, timeout: float | None) -> list[dict[str, Any]]:
        """Return the messages from jobs, after waiting up to ``timeout`` seconds (None: indefinitely) for one.

        Each message has ``job`` (a name) and ``event``: ``progress`` (the fields of
        :func:`mmbuild.base.progress.as_data`), ``waiting`` (why), ``warning`` (message, code, hint), ``failed``
        (message, code, hint; the exit follows), ``done``, which ends the job (digest; record, unless the job writes
        the journal itself), and ``exit`` (status; directory, unless it is the one that :meth:`start` returned).
        """


class Executor(Protocol):
    """The place where actions run."""

    @property
    def capacity(self) -> Capacity:
        """Total resources available to actions."""

    def check(self, plan: Plan, actions: Sequence[Action], options: Options) -> None:
        """Refuse, before anything starts, actions that cannot succeed here.

        Raises:
            MmbuildError: A resource, package or file is missing.
        """

    def grant(self, action: Action) -> Resources:
        """Return the resources granted to ``action``: its estimates, limited to what exists."""

    def request_gpus(self, count: int, *, shared: bool = False) -> GpuRequest:
        """Return a request for GPUs, which is for none if the executor assigns them itself when it places the action.

        Args:
            count: Number of GPUs.
            shared: Whether others may use them at the same time.
        """

    def running(self, place: Path, specs: Sequence[StepSpec], hold: int) -> AbstractContextManager[Running]:
        """Context in which actions can be started; on exit, running actions and all their processes are killed.

        Args:
            place: Existing staging directory in the store.
            specs: Steps that will run.
            hold: File descriptor of the lock that keeps gc away from the store.
        """
