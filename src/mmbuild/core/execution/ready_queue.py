"""What of a plan is done, what waits for what, and what starts next: pure bookkeeping, no processes and no files."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from mmbuild.core.execution.resources import Capacity
from mmbuild.core.graph.action import Action, Resources
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


_GUESSED_SECONDS = 1.0


def priorities(actions: Sequence[Action]) -> dict[str, float]:
    """Expected seconds from the start of each action to the end of what waits for it: the critical path.

    ``actions`` has producers first. An action without an estimate counts one second.
    """
    longest: dict[str, float] = {action.definition_key: 0.0 for action in actions}
    for action in reversed(actions):
        key = action.definition_key
        longest[key] += action.resources.seconds or _GUESSED_SECONDS
        for producer in action.inputs.values():
            if producer in longest:
                longest[producer] = max(longest[producer], longest[key])
    return longest


@dataclass(slots=True)
class ReadyPool:
    """What is free of a :class:`Capacity`, and the ready actions in the order of their priority."""

    capacity: Capacity
    priority: Mapping[str, float]
    cores: int = 0
    memory: int = 0
    running: int = 0
    _ready: list[tuple[float, int, str]] = field(default_factory=list)
    _count: int = 0

    def add(self, key: str) -> None:
        """The action ``key`` has all its inputs."""
        self._count += 1
        heapq.heappush(self._ready, (-self.priority.get(key, 0.0), self._count, key))

    def take(self, start: Callable[[str], Resources | None]) -> None:
        """Offer the ready actions, most urgent first, while a job is free.

        ``start(key)`` starts the action and returns what it took, or returns None to be asked again later.
        """
        kept: list[tuple[float, int, str]] = []
        while self._ready and self.running < self.capacity.jobs and self._core_is_free():
            item = heapq.heappop(self._ready)
            taken = start(item[2])
            if taken is None:
                kept.append(item)
            elif taken is not NOTHING:
                self.cores += taken.cores
                self.memory += taken.memory
                self.running += 1
        for item in kept:
            heapq.heappush(self._ready, item)

    def _core_is_free(self) -> bool:
        return self.running == 0 or self.cores < self.capacity.cores

    def fits(self, resources: Resources) -> bool:
        """Whether ``resources`` is free. The only running action may take anything."""
        if self.running == 0:
            return True
        return (
            self.cores + resources.cores <= self.capacity.cores
            and self.memory + resources.memory <= self.capacity.memory
        )

    def give_back(self, taken: Resources) -> None:
        """An action ended."""
        self.cores -= taken.cores
        self.memory -= taken.memory
        self.running -= 1

    def clear(self) -> None:
        """Nothing more is to start."""
        self._ready.clear()

    @property
    def waiting(self) -> bool:
        """Whether an action is ready that has not started."""
        return bool(self._ready)


NOTHING = Resources(cores=0)
"""What ``start`` returns for an action that needed no process: its result was already there."""
