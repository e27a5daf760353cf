"""Applying graphs of trivial steps in a test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmbuild.api import plan_graphs
from mmbuild.core.execution.events import Event
from mmbuild.core.execution.options import ApplyOptions, Options
from mmbuild.core.execution.resources import Capacity
from mmbuild.core.execution.run_plan import Local, Result, run_plan
from mmbuild.core.graph.action import RecipeGraph
from mmbuild.core.graph.plan import Plan
from mmbuild.core.store.layout import Store, open_store
from support.projects.warm_workers import WarmLocal
from support.steps.trivial import TABLE


@dataclass
class Workspace:
    """A store and a build directory under ``root``. ``cold``: each apply starts Python for its workers."""

    root: Path
    events: list[Event] = field(default_factory=list)
    cold: bool = False

    @property
    def store(self) -> Store:
        return open_store(self.root / "store")

    @property
    def build(self) -> Path:
        return self.root / "build"

    def plan(self, *graphs: RecipeGraph) -> Plan:
        return plan_graphs(graphs, self.store, self.build)

    def verdicts(self, *graphs: RecipeGraph) -> dict[str, str]:
        return {p.action.label: str(p.verdict) for p in self.plan(*graphs).actions}

    def reasons(self, *graphs: RecipeGraph) -> dict[str, str]:
        return {p.action.label: p.reason for p in self.plan(*graphs).actions}

    def apply(self, *graphs: RecipeGraph, capacity: Capacity | None = None, **applied: Any) -> Result:
        """``applied``: fields of ``ApplyOptions``."""
        options = Options(capacity or Capacity(2, 1 << 50, (), 2), ApplyOptions(**applied))
        executor = (Local if self.cold else WarmLocal)(options.capacity)
        return run_plan(
            self.plan(*graphs), specs=TABLE, options=options, sink=self.events.append, executor=executor
        )

    def text(self, recipe: str) -> str:
        return (self.build / recipe / "text").read_text()

    def digest(self, label: str) -> str:
        """Artifact of the last finished action of that label."""
        from mmbuild.core.store.action_cache import load_cache

        records: Sequence = [r for r in load_cache(self.store).by_key.values() if r.label == label]
        return records[-1].digest
