"""What the scheduling loop asks of the place where actions run: this machine, or a cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from mmbuild.core.execution.job import WorkerJob
from mmbuild.core.execution.options import Options
from mmbuild.core.execution.resources import Capacity
from mmbuild.core.graph.action import Action, Resources
from mmbuild.core.graph.plan import Plan
from mmbuild.core.steps.registry import StepSpec
from mmbuild.core.store.locks import FileLock


class Running(Protocol):
    """Starts actions and hears of them."""

    def start(self, job: WorkerJob, action: Action) -> Path:
        """Start ``job``, which is ``action`` with the resources that it was granted.

        Returns:
            The directory where it leaves ``failure.json`` and ``work/out`` if it fails.
        """

    def messages(self, timeout: float | None) -> list[dict[str, Any]]:
        """What the jobs said; waits up to ``timeout`` seconds for something.

        Each message has ``job`` (a name) and ``event``: ``progress`` (message, fraction), ``waiting`` (why),
        ``warning`` (message, code, hint), ``failed`` (message, code, hint; the exit follows), ``done``, which ends
        the job (digest; record, where the job was told to leave the journal alone), and ``exit`` (status;
        directory, where it is not the one that :meth:`start` named).
        """


class Executor(Protocol):
    """Where actions run."""

    @property
    def capacity(self) -> Capacity:
        """What may be handed out at once, all of it."""

    def check(self, plan: Plan, actions: Sequence[Action], options: Options) -> None:
        """Refuse, before anything starts, what cannot end well here.

        Raises:
            MmbuildError: What is missing.
        """

    def grant(self, action: Action) -> Resources:
        """What ``action`` gets: its wishes, cut to what exists."""

    def lock_gpus(self, count: int) -> Mapping[str, FileLock] | None:
        """GPUs for an action, by id, with the locks that hold them; None where too few are free now.

        Empty where whoever places the action also chooses its GPUs.
        """

    def running(self, place: Path, specs: Sequence[StepSpec], hold: int) -> AbstractContextManager[Running]:
        """What starts actions; on leaving, all that still run are ended with everything they started.

        Args:
            place: Existing staging directory in the store.
            specs: Steps that will run.
            hold: Descriptor that keeps gc away from the store.
        """
