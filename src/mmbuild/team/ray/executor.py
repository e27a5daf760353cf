"""Executor for a Ray cluster: selects nodes, reports their capacity, and starts actions there."""

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
from mmbuild.core.execution.gpu_queue import GpuRequest
from mmbuild.core.execution.options import Options
from mmbuild.core.execution.resources import Capacity, check_fits
from mmbuild.core.execution.staging import staging
from mmbuild.core.graph.action import Action, Resources
from mmbuild.core.graph.plan import Plan
from mmbuild.core.steps.registry import StepSpec
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
    """The nodes used by an apply. Created by :func:`on_cluster`.

    Attributes:
        ray: The Ray module.
        nodes: The usable nodes, with their answers.
        asked: Ids of all probed nodes, including excluded ones.
        question: The probe they answered.
        carrier: Transfer to nodes that cannot access the store; None if there are none.
        ignore_estimates: Whether to accept nodes with less memory than an action is estimated to need.
        jobs: Maximum number of concurrent actions.
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
        """Total capacity of all nodes: Ray decides which action waits for which node."""
        cores = sum(node.cores for node in self.nodes)
        memory = sum(node.memory for node in self.nodes)
        return Capacity(max(1, cores), memory, (), self.jobs or max(1, cores))

    def able(self, action: Action) -> list[ClusterNode]:
        """Return the nodes that can run ``action``."""
        return capable_nodes(self.nodes, action, **self._how)

    def check(self, plan: Plan, actions: Sequence[Action], options: Options) -> None:
        """Refuse actions that no node can run, or that do not fit on the store's disk.

        Raises:
            MmbuildError: MM843, MM313.
        """
        for action in actions:
            if not self.able(action):
                raise refuse(self.nodes, action, **self._how)
        here = Capacity(1, _UNLIMITED, ("",) * max((a.resources.gpus for a in actions), default=0))
        check_fits(actions, here, plan.store.root, ignore_estimates=options.apply.ignore_estimates)

    def grant(self, action: Action) -> Resources:
        """Limit the action's resources to the largest node that can run it."""
        required, nodes = action.resources, self.able(action)
        return replace(
            required,
            cores=max(1, min(required.cores, max((node.cores for node in nodes), default=1))),
            memory=min(required.memory, max((node.memory for node in nodes), default=0)),
        )

    def request_gpus(self, count: int, *, shared: bool = False) -> GpuRequest:  # noqa: ARG002
        return GpuRequest((), 0)  # Ray chooses them

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
    """Provide the nodes of a cluster that can be used for ``plan``; other nodes are reported as warnings.

    Args:
        plan: The plan to run.
        specs: All steps.
        sink: Receives warnings.
        address: See :func:`mmbuild.team.ray.connect.connected`.
        jobs: Maximum number of concurrent actions; None means the number of CPUs of all nodes.
        ignore_estimates: Also accept nodes with less memory than an action is estimated to need.

    Raises:
        MmbuildError: MM840 or MM841, no Ray; MM842, no node has the driver's software; MM844, no node can access the
            store and artifacts cannot be transferred; MM820 to MM825 from the shared store.
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
        cluster_nodes = alive(ray)
        nodes, silent = query_nodes(ray, cluster_nodes.values(), question)
        data = {**silent, **_differing(nodes)}
        usable = [node for node in nodes if node.name not in data]
        if not usable:
            raise _no_node(data)
        carrier, problem = carrier_to(usable, plan)
        if carrier is None:
            data |= {
                node.name: f"it cannot access the store, and {problem}" for node in usable if not node.sees
            }
            usable = [node for node in usable if node.sees]
        for name, reason in data.items():
            _warn(sink, f"node {name} is not used: {reason}")
        requested = frozenset(cluster_nodes)
        yield Cluster(ray, tuple(usable), requested, question, carrier, ignore_estimates, jobs or 0)


def _differing(nodes: Sequence[ClusterNode]) -> dict[str, str]:
    return {
        node.name: ", ".join(node.answer.differences)
        for node in nodes
        if node.answer is not None and node.answer.differences
    }


def carrier_to(nodes: Sequence[ClusterNode], plan: Plan) -> tuple[ArtifactTransfer | None, str]:
    """Return the transfer for ``nodes`` that cannot access the store.

    Returns:
        The transfer, or None if all nodes can access the store or there is no usable shared store; and in the latter
        case the reason.

    Raises:
        MmbuildError: MM844, no node can access the store, and there is no usable shared store.
    """
    if all(node.sees for node in nodes):
        return None, ""
    shared = plan.remote
    if not isinstance(shared, SharedStore):
        reason = "no shared store is configured"
    elif not (shared.settings.push and shared.settings.pull):
        reason = "the shared store is not configured for both pull and push"
    else:
        try:
            check_writable(shared)
            return ArtifactTransfer(shared), ""
        except MmbuildError as error:
            reason = error.message
    if any(node.sees for node in nodes):
        return None, reason
    raise MmbuildError(
        f"no cluster node can access the store `{plan.store.root}`, and artifacts cannot be transferred: {reason}",
        code="MM844",
        hint="either put the store on a disk that all nodes mount (`--store`; set MMBUILD_NODE_STORE on a node that"
        " mounts it at another path), or configure `store.remote` with `push: always`",
    )


def _no_node(reported: Mapping[str, str]) -> MmbuildError:
    reasons = "; ".join(f"{name}: {reason}" for name, reason in list(reported.items())[:8])
    return MmbuildError(
        f"no node of the cluster can be used: {reasons}",
        code="MM842",
        hint="install the driver's versions of mmbuild and its packages on every node, for instance with one image",
    )


def _warn(sink: Sink, message: str) -> None:
    data = {"message": message, "code": "MM849", "hint": "the other nodes do its work"}
    sink(Event(EventKind.WARNING, data=data))
