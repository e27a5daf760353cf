"""Tracks which actions are done, blocked and ready, and which starts next. Pure bookkeeping without I/O."""

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
    """State of an apply; mappings are by definition key unless stated otherwise.

    Attributes:
        actions: All actions of the plan.
        done: Results.
        waiting: Actions without a result.
        blocked: Number of producers that an action still waits for.
        consumers: Waiting actions that need an action's result.
        builds: Engine directories that need an action's result.
        missing: Number of results still missing for an engine directory, by recipe.
    """

    actions: dict[str, Action] = field(default_factory=dict)
    done: dict[str, Record] = field(default_factory=dict)
    waiting: dict[str, PlannedAction] = field(default_factory=dict)
    blocked: dict[str, int] = field(default_factory=dict)
    consumers: dict[str, list[str]] = field(default_factory=dict)
    builds: dict[str, list[Build]] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)

    def digests(self, action: Action) -> dict[str, str]:
        """Return the artifact digests of the inputs of an action whose producers are done."""
        return {name: self.done[producer].digest for name, producer in action.inputs.items()}

    def ready(self) -> list[str]:
        """Return the waiting actions that have all their inputs, in plan order."""
        return [key for key in self.waiting if self.blocked[key] == 0]

    def complete(self, key: str, record: Record) -> tuple[list[str], list[Build]]:
        """Record a result; return the actions that are now ready and the engine directories that are now complete."""
        self.done[key] = record
        self.waiting.pop(key, None)
        for consumer in self.consumers.get(key, ()):
            self.blocked[consumer] -= 1
        for build in self.builds.get(key, ()):
            self.missing[build.recipe] -= 1
        ready = [consumer for consumer in self.consumers.get(key, ()) if self.blocked[consumer] == 0]
        return ready, [build for build in self.builds.get(key, ()) if self.missing[build.recipe] == 0]


def state_of(plan: Plan) -> SchedulerState:
    """Return the state before anything ran."""
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
        missing = [key for key in dict.fromkeys(build.actions.values()) if key in state.waiting]
        state.missing[build.recipe] = len(missing)
        for key in missing:
            state.builds.setdefault(key, []).append(build)
    return state


def builds_to_restore(plan: Plan, state: SchedulerState) -> Iterator[Build]:
    """Yield the engine directories that have all results but must be installed again."""
    restored = {p.action.definition_key for p in plan.actions if p.verdict is Verdict.RESTORE}
    for build in plan.builds:
        if state.missing[build.recipe] == 0 and restored.intersection(build.targets.values()):
            yield build


_GUESSED_SECONDS = 1.0


def priorities(actions: Sequence[Action]) -> dict[str, float]:
    """Return the expected seconds from the start of each action to the end of its longest chain of consumers.

    ``actions`` has producers first. An action without an estimate counts as one second.
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
    """Ready actions in order of priority, and the resources of a :class:`Capacity` in use."""

    capacity: Capacity
    priority: Mapping[str, float]
    cores: int = 0
    memory: int = 0
    shared_gpu_memory: int = 0
    running: int = 0
    _ready: list[tuple[float, int, str]] = field(default_factory=list)
    _count: int = 0

    def add(self, key: str) -> None:
        """Add a ready action."""
        self._count += 1
        heapq.heappush(self._ready, (-self.priority.get(key, 0.0), self._count, key))

    def take(self, start: Callable[[str], Resources | None]) -> None:
        """Offer ready actions to ``start``, highest priority first, while a job slot is free.

        ``start(key)`` starts the action and returns the resources it uses, or None to be called again later.
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
                self.shared_gpu_memory += _shared_gpu_memory(taken)
                self.running += 1
        for item in kept:
            heapq.heappush(self._ready, item)

    def _core_is_free(self) -> bool:
        return self.running == 0 or self.cores < self.capacity.cores

    def fits(self, resources: Resources) -> bool:
        """Return whether ``resources`` is available. If nothing else is running, an action may take everything."""
        if self.running == 0:
            return True
        return (
            self.cores + resources.cores <= self.capacity.cores
            and self.memory + resources.memory <= self.capacity.memory
            and self._gpu_has_room(_shared_gpu_memory(resources))
        )

    def _gpu_has_room(self, more: int) -> bool:
        """Whether ``more`` bytes fit on a GPU with the actions that share it, as if all shared the same GPU."""
        most = self.capacity.gpu_memory
        return not more or not most or self.shared_gpu_memory + more <= most

    def give_back(self, taken: Resources) -> None:
        """Release the resources of an action that ended."""
        self.cores -= taken.cores
        self.memory -= taken.memory
        self.shared_gpu_memory -= _shared_gpu_memory(taken)
        self.running -= 1

    def clear(self) -> None:
        """Drop all ready actions, so that nothing more starts."""
        self._ready.clear()

    @property
    def waiting(self) -> bool:
        """Whether a ready action has not started yet."""
        return bool(self._ready)


def _shared_gpu_memory(resources: Resources) -> int:
    return resources.gpu_memory if resources.gpu_shared else 0


NOTHING = Resources(cores=0)
"""Returned by ``start`` for an action that needed no process, because its result already exists."""
