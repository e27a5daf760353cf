"""Plans: which actions run, and why, in one sentence each. :mod:`mmbuild.core.graph.planner` makes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from mmbuild.base.canonical_json import hash_json
from mmbuild.core.graph.action import Action, Json, RecipeGraph
from mmbuild.core.graph.remote_lookup import RemoteLookup
from mmbuild.core.store.action_cache import Record
from mmbuild.core.store.layout import Store


class Verdict(StrEnum):
    """What apply does with an action."""

    RUN = "run"
    PULL = "pull"
    RESTORE = "restore"
    UP_TO_DATE = "up to date"
    UNKNOWN = "unknown until built"


@dataclass(frozen=True, slots=True)
class PlannedAction:
    """One action of a plan.

    Attributes:
        action: The action; of those that several recipes share, the first.
        recipes: Names of the variants that need it.
        verdict: What apply does.
        reason: Why, one sentence without a full stop.
        record: Its finished result, where there is one for exactly these inputs.
    """

    action: Action
    recipes: tuple[str, ...]
    verdict: Verdict
    reason: str
    record: Record | None = None


@dataclass(frozen=True, slots=True)
class Build:
    """One engine directory of a plan.

    Attributes:
        recipe: Name of the variant.
        directory: Absolute path of the engine directory.
        targets: Definition key by place in the directory; ``""`` is the engine itself.
        actions: Definition key by label, producers first.
        intact: Whether the directory holds what was last laid out there, by stat.
        settings: What the recipe's files say of the variant, by dotted key.
    """

    recipe: str
    directory: Path
    targets: Mapping[str, str]
    actions: Mapping[str, str]
    intact: bool = False
    settings: Mapping[str, Json] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Plan:
    """What an apply does, in an order that has producers first.

    Attributes:
        actions: Each distinct action once.
        builds: The engine directories to fill.
        store: Where results are and go.
        remote: Where else results may be; None for nowhere.
    """

    actions: tuple[PlannedAction, ...]
    builds: tuple[Build, ...]
    store: Store
    remote: RemoteLookup | None = field(default=None, compare=False, repr=False)

    @property
    def hash(self) -> str:
        """BLAKE3, hex, over the definition keys and build names: what is asked for, whatever is built."""
        required = {build.recipe: dict(build.targets) for build in self.builds}
        return hash_json(
            {"actions": sorted(p.action.definition_key for p in self.actions), "builds": required}
        )

    @property
    def changes(self) -> bool:
        """Whether apply would do anything."""
        return any(planned.verdict is not Verdict.UP_TO_DATE for planned in self.actions)

    def count(self, verdict: Verdict) -> int:
        """How many actions have this verdict."""
        return sum(planned.verdict is verdict for planned in self.actions)


def graphs_of(plan: Plan) -> list[RecipeGraph]:
    """What ``plan`` was made from, to make it again; actions of no engine together as one graph without one."""
    actions = {planned.action.definition_key: planned.action for planned in plan.actions}
    # An action that several recipes share stands in the plan under one label; keys decide, not labels.
    graphs = [
        RecipeGraph(
            build.recipe,
            tuple(replace(actions[key], label=label) for label, key in build.actions.items()),
            build.targets[""],
            build.settings,
        )
        for build in plan.builds
    ]
    built = {key for build in plan.builds for key in build.actions.values()}
    if len(built) < len(actions):
        graphs.append(RecipeGraph("", tuple(actions.values()), ""))
    return graphs
