"""Selects the nodes of a cluster that can run an action."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mmbuild.base import host
from mmbuild.base.errors import MmbuildError
from mmbuild.core.graph.action import Action
from mmbuild.team.ray.protocol import NodeInfo, NodeProbe
from mmbuild.team.ray.remote_worker import inspect_node

_ANSWER_SECONDS = 90.0
"""Timeout for a node to start a process and answer; a node that does not is excluded."""

_PART = 0.001
"""Amount of a resource like ``sm90`` that an action takes: it selects nodes and does not limit concurrency."""

_SHOWN = 8


@dataclass(frozen=True, slots=True)
class ClusterNode:
    """A node that is alive.

    Attributes:
        id: Ray's node id.
        name: Name for display: host and address.
        resources: Ray's total resources: ``CPU``, ``GPU``, ``memory`` (bytes), and those given at start.
        answer: Its answer to the probe; None if it has not been probed.
    """

    id: str
    name: str
    resources: Mapping[str, float]
    answer: NodeInfo | None = None

    @property
    def cores(self) -> int:
        return int(self.resources.get("CPU", 0))

    @property
    def memory(self) -> int:
        return int(self.resources.get("memory", 0))

    @property
    def sees(self) -> bool:
        """Whether it can access the driver's store."""
        return self.answer is not None and self.answer.root is not None

    @property
    def gpus(self) -> int:
        return int(self.resources.get("GPU", 0))


def alive(ray: Any) -> dict[str, ClusterNode]:
    """Return the live nodes of the cluster by id, not yet probed."""
    return {
        row["NodeID"]: ClusterNode(
            row["NodeID"],
            f"{row['NodeManagerHostname']} ({row['NodeManagerAddress']}, {row['NodeID'][:8]})",
            row["Resources"],
        )
        for row in ray.nodes()
        if row["Alive"]
    }


def query_nodes(
    ray: Any, nodes: Iterable[ClusterNode], question: NodeProbe
) -> tuple[list[ClusterNode], dict[str, str]]:
    """Probe nodes; return those that answered, and why others did not, by name."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    remote = ray.remote(num_cpus=0, max_retries=0)(inspect_node)
    request = {
        remote.options(
            name="mmbuild: probe node",
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False),
        ).remote(question): node
        for node in nodes
    }
    answered: list[ClusterNode] = []
    silent: dict[str, str] = {}
    ready, late = ray.wait(list(request), num_returns=len(request), timeout=_ANSWER_SECONDS)
    for reference in ready:
        node = request[reference]
        try:
            answered.append(replace(node, answer=ray.get(reference)))
        except Exception as error:  # most likely mmbuild is not installed there
            silent[node.name] = str(error).strip().splitlines()[-1][:300]
    for reference in late:
        ray.cancel(reference, force=True)
        silent[request[reference].name] = f"it gave no answer within {_ANSWER_SECONDS:.0f} seconds"
    return answered, silent


def resources(action: Action) -> dict[str, Any]:
    """Return the resource request for Ray: cores, GPUs, bytes of memory, and the SM as a resource like ``sm90``."""
    sm, granted = action.target.get("sm"), action.resources
    return {
        "num_cpus": granted.cores,
        "num_gpus": granted.gpus,
        "memory": granted.memory,
        "resources": {f"sm{sm}": _PART} if sm is not None and granted.gpus else {},
    }


def shortfall(
    node: ClusterNode, action: Action, *, ignore_estimates: bool = False, carries: bool = False
) -> str:
    """Return why ``node`` cannot run ``action``; empty if it can. ``carries``: artifacts can be transferred."""
    required, answer = action.resources, node.answer
    sm, isa = action.target.get("sm"), action.target.get("isa")
    if node.cores < 1:
        return "no CPUs"
    if node.gpus < required.gpus:
        return f"{node.gpus} GPUs of {required.gpus}"
    if required.gpus and sm is not None and node.resources.get(f"sm{sm}", 0) < _PART:
        return f"no resource `sm{sm}`"
    if not ignore_estimates and node.memory < required.memory:
        return f"{node.memory / 1e9:.1f} GB of memory of {required.memory / 1e9:.1f} GB"
    if answer is None:
        return ""
    if isa is not None and not host.runs_on(isa, answer.isa):
        return f"its CPU has {answer.isa}, not {isa}"
    if answer.root is None and not carries:
        return "it cannot access the store"
    missing = sorted(answer.missing.intersection(action.locators.values()))
    return f"`{missing[0]}` does not exist" if missing else ""


def capable_nodes(nodes: Iterable[ClusterNode], action: Action, **how: bool) -> list[ClusterNode]:
    """Return the nodes that can run ``action``; ``how`` as for :func:`shortfall`."""
    return [node for node in nodes if not shortfall(node, action, **how)]


def refuse(nodes: Sequence[ClusterNode], action: Action, **how: bool) -> MmbuildError:
    """Return the error (MM843) that says why none of ``nodes`` can run ``action``."""
    lines = [f"{node.name}: {shortfall(node, action, **how)}" for node in nodes[:_SHOWN]]
    lines += [f"and {len(nodes) - _SHOWN} more"] if len(nodes) > _SHOWN else []
    sm = action.target.get("sm")
    hint = "start a suitable node before mmbuild, which does not wait for nodes that join later"
    if action.resources.gpus and sm is not None:
        hint += f"; declare a GPU node's SM with `ray start --resources='{{\"sm{sm}\": 1}}'`"
    return MmbuildError(
        f"no node of the cluster can run `{action.label}`: {'; '.join(lines) or 'there is none'}",
        code="MM843",
        hint=hint,
    )
