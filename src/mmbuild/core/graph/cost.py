"""What an apply of a plan costs: time, downloads, disk and memory."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mmbuild.base.formatting import estimate_text, size_text
from mmbuild.core.graph.action import Action
from mmbuild.core.graph.durations import estimated_seconds, measured_records
from mmbuild.core.graph.plan import Plan, Verdict
from mmbuild.core.store.action_cache import ActionCache, Record

_WORK = (Verdict.RUN, Verdict.UNKNOWN)


@dataclass(frozen=True, slots=True)
class Duration:
    """Seconds of an action.

    Attributes:
        seconds: The seconds.
        measured: Whether the action was timed on this machine, perhaps with other inputs; else it is an estimate.
    """

    seconds: float
    measured: bool

    def __str__(self) -> str:
        if self.seconds < 1:
            return "<1 s"
        return f"{'' if self.measured else '~'}{estimate_text(self.seconds)}"


@dataclass(frozen=True, slots=True)
class PlanCost:
    """The cost of the actions that an apply runs, or may run.

    Attributes:
        actions: Duration of each, by definition key.
        seconds: All of them, on this many cores: at least the longest chain, at least what keeps all cores busy.
        download: Bytes from the network.
        disk: Bytes of results: the size of an action's earlier result where there is one, else an estimate.
        memory: The most host memory of one action, bytes: its measured peak where there is one, else an estimate.
        reserved: The most host memory that apply reserves for one action, bytes; always an estimate.
        largest: The label of the action with ``reserved``.
        gpu_memory: The most memory of one action on a GPU, bytes.
    """

    actions: Mapping[str, Duration]
    seconds: float
    download: int
    disk: int
    memory: int
    gpu_memory: int
    largest: str = ""
    reserved: int = 0

    def text(self) -> str:
        """Two lines; empty if nothing runs."""
        if not self.actions:
            return ""
        measured = sum(duration.measured for duration in self.actions.values())
        basis = "measured before" if measured == len(self.actions) else "estimated"
        if 0 < measured < len(self.actions):
            basis = f"{measured} of {len(self.actions)} durations measured before, others estimated"
        parts = [f"downloads {size_text(self.download)}"] if self.download else []
        parts += [f"writes {size_text(self.disk)}"] if self.disk else []
        parts += [f"one action takes up to {size_text(self.memory)} of memory"] if self.memory else []
        parts += [f"{size_text(self.gpu_memory)} of GPU memory"] if self.gpu_memory else []
        lines = [f"takes about {estimate_text(self.seconds)} ({basis})", ", ".join(parts)]
        return "\n".join(filter(None, lines))

    def document(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


def cost_of(plan: Plan, cache: ActionCache, cores: int) -> PlanCost:
    """The cost of a plan on a machine with ``cores`` whose store has ``cache``."""
    actions = [planned.action for planned in plan.actions if planned.verdict in _WORK]
    measured = measured_records(actions, cache)
    durations = {action.definition_key: _duration(action, measured) for action in actions}
    needs = [action.resources for action in actions]
    return PlanCost(
        actions=durations,
        seconds=wall_seconds(actions, {key: duration.seconds for key, duration in durations.items()}, cores),
        download=sum(need.download for need in needs),
        disk=sum(_disk(action, measured) for action in actions),
        memory=max((_memory(action, measured) for action in actions), default=0),
        reserved=max((need.memory for need in needs), default=0),
        largest=max(actions, key=lambda action: action.resources.memory).label if actions else "",
        gpu_memory=max((need.gpu_memory for need in needs), default=0),
    )


def _duration(action: Action, measured: Mapping[str, Record]) -> Duration:
    record = measured.get(action.label)
    if record is None:
        return Duration(estimated_seconds(action), measured=False)
    return Duration(round(record.seconds, 3), measured=True)


def _disk(action: Action, measured: Mapping[str, Record]) -> int:
    record = measured.get(action.label)
    return record.size if record is not None and record.size else action.resources.disk


def _memory(action: Action, measured: Mapping[str, Record]) -> int:
    record = measured.get(action.label)
    return record.memory if record is not None and record.memory else action.resources.memory


def wall_seconds(actions: Sequence[Action], seconds: Mapping[str, float], cores: int) -> float:
    """Seconds that ``actions`` take on ``cores``: at least the longest chain, at least what keeps all cores busy.

    Args:
        actions: The actions, producers first.
        seconds: Of each action, by definition key.
        cores: Cores of the machine.
    """
    busy = sum(min(action.resources.cores, cores) * seconds[action.definition_key] for action in actions)
    return max(_longest_chain(actions, seconds), busy / cores)


def _longest_chain(actions: Collection[Action], seconds: Mapping[str, float]) -> float:
    """Seconds until the last action ends if each starts as soon as its inputs are there; producers come first."""
    ends: dict[str, float] = {}
    for action in actions:
        begin = max((ends.get(key, 0.0) for key in action.inputs.values()), default=0.0)
        ends[action.definition_key] = begin + seconds[action.definition_key]
    return max(ends.values(), default=0.0)
