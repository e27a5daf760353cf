"""The executor of a cluster: which nodes take part, what they can give, and starting actions there."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmbuild.base.errors import MmbuildError
from mmbuild.core.execution.events import Event, EventKind, Sink
from mmbuild.core.execution.executor import Running
from mmbuild.core.execution.options import Options
from mmbuild.core.execution.resources import Capacity, check_fits
from mmbuild.core.execution.staging import staging
from mmbuild.core.graph.action import Action, Resources
from mmbuild.core.graph.plan import Plan
from mmbuild.core.steps.registry import StepSpec
from mmbuild.core.store.locks import FileLock
from mmbuild.team.ray.artifact_transfer import ArtifactTransfer
from mmbuild.team.ray.connect import connected
from mmbuild.team.ray.node_selection import ClusterNode, alive, capable_nodes, query_nodes, refuse
from mmbuild.team.ray.protocol import NodeProbe, carried_environment, versions_of
from mmbuild.team.ray.task_runner import TaskRunner, attempts
from mmbuild.team.remote_cache.push import check_writable
from mmbuild.team.remote_cache.remote_cache import SharedStore

_UNLIMITED = 1 << 60


@dataclass(frozen=True, slots=True)
class Cluster:
    """Nodes that take part in one apply. Made by :func:`on_cluster`.

    Attributes:
        ray: The module.
        nodes: With their answers.
        asked: Ids of all that were asked, also those that take no part.
        question: What they answered.
        carrier: To nodes that do not see the store; None where there are none.
        ignore_estimates: Whether memory that an action is thought to need must be there.
        jobs: Actions at once.
    """

    ray: Any
    nodes: tuple[ClusterNode, ...]
    asked: frozenset[str]
    question: NodeProbe
    carrier: ArtifactTransfer | None
    ignore_estimates: bool
    jobs: int

    @property
    def capacity(self) -> Capacity:
        """Of all nodes together: which action waits for which node is Ray's to say."""
        cores = sum(node.cores for node in self.nodes)
        memory = sum(node.memory for node in self.nodes)
        return Capacity(max(1, cores), memory, (), self.jobs or max(1, cores))

    def able(self, action: Action) -> list[ClusterNode]:
        """Nodes that can run ``action``."""
        return capable_nodes(self.nodes, action, **self._how)

    def check(self, plan: Plan, actions: Sequence[Action], options: Options) -> None:
        """Refuse what no node can run, or the store's disk has no room for.

        Raises:
            MmbuildError: MM843, MM313.
        """
        for action in actions:
            if not self.able(action):
                raise refuse(self.nodes, action, **self._how)
        here = Capacity(1, _UNLIMITED, ("",) * max((a.resources.gpus for a in actions), default=0))
        check_fits(actions, here, plan.store.root, ignore_estimates=options.apply.ignore_estimates)

    def grant(self, action: Action) -> Resources:
        """Cut to the largest node that can run it."""
        required, nodes = action.resources, self.able(action)
        return replace(
            required,
            cores=max(1, min(required.cores, max((node.cores for node in nodes), default=1))),
            memory=min(required.memory, max((node.memory for node in nodes), default=0)),
        )

    def lock_gpus(self, count: int) -> Mapping[str, FileLock] | None:  # noqa: ARG002 (Ray chooses them)
        return {}

    @contextmanager
    def running(self, place: Path, specs: Sequence[StepSpec], hold: int) -> Iterator[Running]:  # noqa: ARG002
        """See :func:`mmbuild.team.ray.task_runner.attempts`."""
        actions = TaskRunner(self.ray, self, place, {spec.name: spec for spec in specs})
        with attempts(actions):
            yield actions

    @property
    def _how(self) -> dict[str, bool]:
        return {"ignore_estimates": self.ignore_estimates, "carries": self.carrier is not None}


@contextmanager
def on_cluster(
    plan: Plan,
    specs: Mapping[str, StepSpec],
    sink: Sink,
    *,
    address: str | None = None,
    jobs: int | None = None,
    ignore_estimates: bool = False,
) -> Iterator[Cluster]:
    """The nodes of a cluster that can take part in an apply of ``plan``; nodes that cannot are told as warnings.

    Args:
        plan: What is to be run.
        specs: All steps.
        sink: For warnings.
        address: See :func:`mmbuild.team.ray.connect.connected`.
        jobs: Actions at once; None means as many as all nodes have CPUs.
        ignore_estimates: Also accept nodes with less memory than an action is thought to need.

    Raises:
        MmbuildError: MM840 or MM841 no Ray, MM842 no node has the driver's software, MM844 no node sees the store
            and there is no way to carry; of the shared store MM820 to MM825.
    """
    waiting = [planned.action for planned in plan.actions if planned.record is None]
    paths = {text for action in waiting for text in action.locators.values() if text.startswith("/")}
    needed = [specs[step] for step in sorted({action.step for action in waiting}) if step in specs]
    with connected(address) as ray, staging(plan.store) as place:
        token = place / "token"
        token.write_text(secrets.token_hex(16), encoding="ascii")
        question = NodeProbe(
            str(plan.store.root),
            (str(token.relative_to(plan.store.root)), token.read_text(encoding="ascii")),
            versions_of(needed, {name for action in waiting for name in action.toolchain}),
            tuple(sorted(paths)),
            carried_environment(),
        )
        everyone = alive(ray)
        nodes, silent = query_nodes(ray, everyone.values(), question)
        data = {**silent, **_differing(nodes)}
        fit = [node for node in nodes if node.name not in data]
        if not fit:
            raise _no_node(data)
        carrier, closed = carrier_to(fit, plan)
        if carrier is None:
            data |= {node.name: f"it does not see the store, and {closed}" for node in fit if not node.sees}
            fit = [node for node in fit if node.sees]
        for name, why in data.items():
            _warn(sink, f"node {name} takes no part: {why}")
        requested = frozenset(everyone)
        yield Cluster(ray, tuple(fit), requested, question, carrier, ignore_estimates, jobs or 0)


def _differing(nodes: Sequence[ClusterNode]) -> dict[str, str]:
    return {
        node.name: ", ".join(node.answer.differences)
        for node in nodes
        if node.answer is not None and node.answer.differences
    }


def carrier_to(nodes: Sequence[ClusterNode], plan: Plan) -> tuple[ArtifactTransfer | None, str]:
    """What carries artifacts to those of ``nodes`` that do not see the store; None where all do, or there is no way.

    Returns:
        It, and why there is none.

    Raises:
        MmbuildError: MM844 no node sees the store, and there is no way.
    """
    if all(node.sees for node in nodes):
        return None, ""
    shared = plan.remote
    if not isinstance(shared, SharedStore):
        why = "no shared store is configured"
    elif not (shared.settings.push and shared.settings.pull):
        why = "the shared store is not both pulled from and pushed to"
    else:
        try:
            check_writable(shared)
            return ArtifactTransfer(shared), ""
        except MmbuildError as error:
            why = error.message
    if any(node.sees for node in nodes):
        return None, why
    raise MmbuildError(
        f"no node of the cluster sees the store `{plan.store.root}`, and artifacts cannot be carried: {why}",
        code="MM844",
        hint="either put the store on a disk that all nodes mount (`--store`; MMBUILD_NODE_STORE on a node where it"
        " lies elsewhere), or configure `store.remote` with `push: always`",
    )


def _no_node(reported: Mapping[str, str]) -> MmbuildError:
    shown = "; ".join(f"{name}: {why}" for name, why in list(reported.items())[:8])
    return MmbuildError(
        f"no node of the cluster can take part: {shown}",
        code="MM842",
        hint="install the driver's versions of mmbuild and its packages on every node, for instance by one image",
    )


def _warn(sink: Sink, message: str) -> None:
    data = {"message": message, "code": "MM849", "hint": "the others do its work"}
    sink(Event(EventKind.WARNING, data=data))
