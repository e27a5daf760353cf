"""Which of the ready actions starts next: pure bookkeeping, no processes."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from mmbuild.core.execution.resources import Capacity
from mmbuild.core.graph.action import Action, Resources

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

    def fits(self, asked: Resources) -> bool:
        """Whether ``asked`` is free. The only running action may take anything."""
        if self.running == 0:
            return True
        return (
            self.cores + asked.cores <= self.capacity.cores
            and self.memory + asked.memory <= self.capacity.memory
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
