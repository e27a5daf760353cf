"""A Ray cluster of several raylets on this machine, and workshops whose actions run there."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmbuild.api import plan_graphs
from mmbuild.core.execution.events import Event, EventKind
from mmbuild.core.execution.options import ApplyOptions, Options
from mmbuild.core.execution.run_plan import Result, run_plan
from mmbuild.core.graph.action import RecipeGraph
from mmbuild.core.steps.registry import StepSpec
from mmbuild.team.ray.connect import connected
from mmbuild.team.ray.executor import on_cluster
from mmbuild.team.remote_cache.sync import sharing
from support import TESTS
from support.projects.machines import Machine
from support.steps.trivial import TABLE

_SMALL = {"object_store_memory": 80 << 20, "num_cpus": 2}
_QUICK = {  # a raylet that is gone is noticed at once, and no process is started before it is needed
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 300,
    "health_check_failure_threshold": 3,
    "enable_worker_prestart": False,
    "prestart_worker_first_driver": False,
}


@dataclass
class Raylets:
    """The cluster; each node is one raylet."""

    cluster: Any
    temporary: Path
    own_store: Path

    def add(self, **options: Any) -> Any:
        environment = {"PYTHONPATH": str(TESTS), **options.pop("env_vars", {})}
        node = self.cluster.add_node(**_SMALL, **options, env_vars=environment)
        self.cluster.wait_for_nodes()
        return node

    def kill(self, node: Any) -> None:
        """SIGKILL its raylet: what runs there is lost."""
        self.cluster.remove_node(node, allow_graceful=False)

    @contextmanager
    def more(self, count: int = 1, **options: Any) -> Iterator[list[Any]]:
        """Further nodes for one test."""
        nodes = [self.add(**options) for _ in range(count)]
        try:
            yield nodes
        finally:
            for node in nodes:
                if node in self.cluster.list_all_nodes():
                    self.kill(node)
            self.cluster.wait_for_nodes()  # until Ray knows that they are gone

    def workspace(self, root: Path, url: str = "") -> ClusterWorkspace:
        """A workspace; ``url`` is that of a shared store."""
        return ClusterWorkspace(root, url=url)

    def logs(self) -> Iterator[Path]:
        return (path for path in self.temporary.rglob("*") if path.is_file())


@contextmanager
def raylets() -> Iterator[Raylets]:
    """Three nodes. Two see the stores of this machine, one of them with a GPU of SM 77; the third has a store of its
    own, and a GPU of SM 55."""
    steps = {"PYTHONPATH": str(TESTS)}
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    temporary = Path(tempfile.mkdtemp(prefix="mm"))  # names of sockets are at most 107 bytes
    from ray._common.utils import get_default_ray_temp_dir
    from ray.cluster_utils import Cluster

    # Where this class writes the address of its head, also where nobody has started a Ray before.
    Path(get_default_ray_temp_dir()).mkdir(parents=True, exist_ok=True)
    cluster = Cluster()
    own_store = temporary / "own-store"
    try:
        cluster.add_node(
            **_SMALL,
            env_vars=steps,
            temp_dir=str(temporary / "r"),
            include_dashboard=False,
            _system_config=_QUICK,
        )
        found = Raylets(cluster, temporary / "r", own_store)
        found.add(num_gpus=1, resources={"sm77": 1})
        found.add(num_gpus=1, resources={"sm55": 1}, env_vars={"MMBUILD_NODE_STORE": str(own_store)})
        cluster.wait_for_nodes()
        with connected(cluster.address):
            yield found
    finally:
        cluster.shutdown()
        shutil.rmtree(temporary, ignore_errors=True)


@dataclass
class ClusterWorkspace(Machine):
    """A workspace whose actions run on the cluster; ``url`` may be left empty for no shared store."""

    specs: Mapping[str, StepSpec] = field(default_factory=lambda: TABLE)
    on_event: Any = None

    def apply(self, *graphs: RecipeGraph, **options: Any) -> Result:  # type: ignore[override]
        plan = self.plan(*graphs) if self.url else plan_graphs(graphs, self.store, self.build)
        with sharing(plan, self._hear) as (here, sink), on_cluster(here, self.specs, sink) as cluster:
            how = Options(cluster.capacity, ApplyOptions(**options))
            return run_plan(here, specs=TABLE, options=how, sink=sink, executor=cluster)

    def _hear(self, event: Event) -> None:
        self.events.append(event)
        if self.on_event is not None:
            self.on_event(event)

    def warnings(self) -> list[str]:
        return [event.data["code"] for event in self.events if event.kind is EventKind.WARNING]

    def log(self, label: str) -> str:
        """Of the last action of that label that started."""
        started = [e for e in self.events if e.kind is EventKind.STARTED and e.label == label]
        return Path(started[-1].data["log"]).read_text()

    def placed(self, label: str) -> list[str]:
        """First characters of the ids of the nodes where it began."""
        return [
            event.data["message"].partition("node ")[2][:8]
            for event in self.events
            if event.kind is EventKind.PROGRESS
            and event.label == label
            and event.data["message"].startswith("on ")
        ]
