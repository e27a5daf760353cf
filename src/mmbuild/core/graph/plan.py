"""Plans: which actions run, each with a one-sentence reason. Built by :mod:`mmbuild.core.graph.planner`."""

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
    UNKNOWN = "may change"


@dataclass(frozen=True, slots=True)
class PlannedAction:
    """An action in a plan.

    Attributes:
        action: The action; if several recipes share it, with the label from the first.
        recipes: Names of the variants that need it.
        verdict: What apply does with it.
        reason: Why, one sentence without a full stop.
        record: The known result for exactly these inputs, if any.
    """

    action: Action
    recipes: tuple[str, ...]
    verdict: Verdict
    reason: str
    record: Record | None = None


@dataclass(frozen=True, slots=True)
class Build:
    """An engine directory in a plan.

    Attributes:
        recipe: Name of the variant.
        directory: Absolute path of the engine directory.
        targets: Definition key by path in the directory; ``""`` is the engine itself.
        actions: Definition key by label, producers first.
        intact: Whether the directory is unchanged since it was last installed, by stat.
        settings: The variant's explicit recipe values by dotted key.
        file: The recipe file, relative to the root of its project; empty if unknown.
        replaces: The recipe file of the engine that an apply replaces, if it is another one; else empty.
    """

    recipe: str
    directory: Path
    targets: Mapping[str, str]
    actions: Mapping[str, str]
    intact: bool = False
    settings: Mapping[str, Json] = field(default_factory=dict, compare=False, repr=False)
    file: str = field(default="", compare=False)
    replaces: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything an apply does, producers first.

    Attributes:
        actions: Each distinct action once.
        builds: The engine directories to install.
        store: The local store.
        remote: The shared store, or None if there is none or it was not needed.
    """

    actions: tuple[PlannedAction, ...]
    builds: tuple[Build, ...]
    store: Store
    remote: RemoteLookup | None = field(default=None, compare=False, repr=False)

    @property
    def hash(self) -> str:
        """BLAKE3 (hex) over definition keys and build names; independent of what is already built."""
        required = {build.recipe: dict(build.targets) for build in self.builds}
        return hash_json(
            {"actions": sorted(p.action.definition_key for p in self.actions), "builds": required}
        )

    @property
    def changes(self) -> bool:
        """Whether apply would do anything."""
        return any(planned.verdict is not Verdict.UP_TO_DATE for planned in self.actions)

    def count(self, verdict: Verdict) -> int:
        """Return the number of actions with this verdict."""
        return sum(planned.verdict is verdict for planned in self.actions)


def graphs_of(plan: Plan) -> list[RecipeGraph]:
    """Return the graphs that ``plan`` was built from, so that it can be planned again.

    Actions that belong to no engine are returned in one graph without an engine.
    """
    actions = {planned.action.definition_key: planned.action for planned in plan.actions}
    # An action that several recipes share has one label in the plan, so look actions up by key.
    graphs = [
        RecipeGraph(
            build.recipe,
            tuple(replace(actions[key], label=label) for label, key in build.actions.items()),
            build.targets[""],
            build.settings,
            build.file,
        )
        for build in plan.builds
    ]
    built = {key for build in plan.builds for key in build.actions.values()}
    if len(built) < len(actions):
        graphs.append(RecipeGraph("", tuple(actions.values()), ""))
    return graphs
