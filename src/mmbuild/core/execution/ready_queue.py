"""What of a plan is done and what waits for what: pure bookkeeping, no processes and no files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from mmbuild.core.graph.action import Action
from mmbuild.core.graph.plan import Build, Plan, PlannedAction, Verdict
from mmbuild.core.store.action_cache import Record


@dataclass(slots=True)
class SchedulerState:
    """One apply so far; every mapping is by definition key unless it says otherwise.

    Attributes:
        actions: All actions of the plan.
        done: Results.
        waiting: Actions that have none yet.
        blocked: How many producers an action still waits for.
        consumers: Waiting actions that an action's result sets free.
        builds: Engine directories that need an action's result.
        missing: How many results an engine directory still lacks, by recipe.
    """

    actions: dict[str, Action] = field(default_factory=dict)
    done: dict[str, Record] = field(default_factory=dict)
    waiting: dict[str, PlannedAction] = field(default_factory=dict)
    blocked: dict[str, int] = field(default_factory=dict)
    consumers: dict[str, list[str]] = field(default_factory=dict)
    builds: dict[str, list[Build]] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)

    def digests(self, action: Action) -> dict[str, str]:
        """Artifact digests of the inputs of an action whose producers are done."""
        return {name: self.done[producer].digest for name, producer in action.inputs.items()}

    def ready(self) -> list[str]:
        """Waiting actions that have all their inputs, in the plan's order."""
        return [key for key in self.waiting if self.blocked[key] == 0]

    def complete(self, key: str, record: Record) -> tuple[list[str], list[Build]]:
        """An action has its result: what it sets free, and the engine directories that are now whole."""
        self.done[key] = record
        self.waiting.pop(key, None)
        for consumer in self.consumers.get(key, ()):
            self.blocked[consumer] -= 1
        for build in self.builds.get(key, ()):
            self.missing[build.recipe] -= 1
        free = [consumer for consumer in self.consumers.get(key, ()) if self.blocked[consumer] == 0]
        return free, [build for build in self.builds.get(key, ()) if self.missing[build.recipe] == 0]


def state_of(plan: Plan) -> SchedulerState:
    """The state before anything ran."""
    state = SchedulerState()
    for planned in plan.actions:
        key = planned.action.definition_key
        state.actions[key] = planned.action
        if planned.record is not None:
            state.done[key] = planned.record
        else:
            state.waiting[key] = planned
    for key, planned in state.waiting.items():
        producers = {producer for producer in planned.action.inputs.values() if producer in state.waiting}
        state.blocked[key] = len(producers)
        for producer in producers:
            state.consumers.setdefault(producer, []).append(key)
    for build in plan.builds:
        lacking = [key for key in dict.fromkeys(build.actions.values()) if key in state.waiting]
        state.missing[build.recipe] = len(lacking)
        for key in lacking:
            state.builds.setdefault(key, []).append(build)
    return state


def builds_to_restore(plan: Plan, state: SchedulerState) -> Iterator[Build]:
    """Engine directories whose results are all there, but not where they belong."""
    restored = {p.action.definition_key for p in plan.actions if p.verdict is Verdict.RESTORE}
    for build in plan.builds:
        if state.missing[build.recipe] == 0 and restored.intersection(build.targets.values()):
            yield build
