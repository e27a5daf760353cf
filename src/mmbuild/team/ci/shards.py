"""Shards: variants split into independent parts that take about the same time.

A variant is in exactly one shard, with everything it is built from, so shards can start together without a shared
store. Work common to variants in several shards is repeated in each; the split avoids this if it costs no time, and
otherwise reports the extra time. The same recipes and times give the same split on every machine: neither the store
nor the host is consulted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmbuild._version import __version__
from mmbuild.base.formatting import estimate_text
from mmbuild.core.graph.action import Action
from mmbuild.team.ci.jobs import union_of
from mmbuild.team.ci.variants import Variant


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard.

    Attributes:
        variants: Names of its variants.
        actions: Definition keys, producers first.
        seconds: Estimated wall time: the longest chain, or the total work divided by the parallelism.
    """

    variants: tuple[str, ...]
    actions: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """All shards.

    Attributes:
        shards: The requested number of shards; some are empty if there are fewer variants.
        makespan: Seconds of the longest shard.
        critical: Seconds of the longest chain of actions.
        total: Seconds of all distinct actions.
        bound: Lower bound of the makespan for any split.
        repeated: Shard indexes (from 0) of actions in several shards, by definition key.
    """

    shards: tuple[Shard, ...]
    makespan: float
    critical: float
    total: float
    bound: float
    repeated: Mapping[str, tuple[int, ...]]


def plan_shards(
    variants: Sequence[Variant], seconds: Mapping[str, float], count: int, at_once: int = 1
) -> ShardPlan:
    """Split ``variants`` into ``count`` shards, in one pass over the variants, longest first.

    A variant goes to the shard that increases the makespan beyond the bound least; ties go to the shard where it adds
    the least work, then to the one that ends first. Without shared actions this is Graham's longest-processing-time
    rule, at most 4/3 of the optimum (R. L. Graham, "Bounds on multiprocessing timing anomalies", 1969).

    Args:
        variants: Variants to build.
        seconds: Durations by definition key.
        count: Number of shards.
        at_once: Number of actions that a shard's machine runs concurrently.
    """
    union = union_of([variant.graph for variant in variants])
    # Integer milliseconds, so that sums are exact and independent of their order.
    times = {key: round(seconds[key] * 1000) for key in union.actions}
    items = sorted((_item(variant, times) for variant in variants), key=lambda item: (-item.work, item.name))
    critical, total = max((item.critical for item in items), default=0), sum(times.values())
    bound = max([critical, total / (count * at_once), *(item.work / at_once for item in items)])
    bins = [_Bin(times, at_once) for _ in range(count)]
    end = bound
    for item in items:
        ends = [shard.end_with(item) for shard in bins]
        added = [shard.added(item) for shard in bins]
        best = min(range(count), key=lambda index: (max(end, ends[index]), added[index], ends[index], index))
        end = max(end, ends[best])
        bins[best].put(item)
    shards = tuple(shard.shard(union.actions) for shard in bins)
    places = {
        key: tuple(index for index, shard in enumerate(bins) if key in shard.keys) for key in union.actions
    }
    return ShardPlan(
        shards,
        max((shard.seconds for shard in shards), default=0.0),
        critical / 1000,
        total / 1000,
        bound / 1000,
        {key: indexes for key, indexes in places.items() if len(indexes) > 1},
    )


@dataclass(frozen=True, slots=True)
class _Item:
    """A variant: its actions, their total milliseconds, and the milliseconds of its longest chain."""

    name: str
    keys: tuple[str, ...]
    work: int
    critical: int


@dataclass(slots=True)
class _Bin:
    """A shard being filled; ``times`` are milliseconds by definition key."""

    times: Mapping[str, int]
    at_once: int
    names: list[str] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    work: int = 0
    critical: int = 0

    def added(self, item: _Item) -> int:
        return sum(self.times[key] for key in item.keys if key not in self.keys)

    def end_with(self, item: _Item) -> float:
        return max(self.critical, item.critical, (self.work + self.added(item)) / self.at_once)

    def put(self, item: _Item) -> None:
        self.work += self.added(item)
        self.critical = max(self.critical, item.critical)
        self.keys.update(item.keys)
        self.names.append(item.name)

    def shard(self, order: Mapping[str, object]) -> Shard:
        keys = tuple(key for key in order if key in self.keys)
        return Shard(tuple(sorted(self.names)), keys, max(self.critical, self.work / self.at_once) / 1000)


def _item(variant: Variant, times: Mapping[str, int]) -> _Item:
    ends: dict[str, int] = {}
    for action in variant.graph.actions:
        begin = max((ends[producer] for producer in action.inputs.values()), default=0)
        ends[action.definition_key] = begin + times[action.definition_key]
    return _Item(variant.name, tuple(ends), sum(times[key] for key in ends), max(ends.values(), default=0))


VERSION = 1


def document(found: ShardPlan, actions: Mapping[str, Action], seconds: Mapping[str, float]) -> dict[str, Any]:
    """Return the versioned JSON form.

    Returns:
        ``{"version", "mmbuild", "shards", "makespan", "bound", "critical", "total", "repeated"}``. A shard: ``index``
        (from 1), ``variants``, ``actions`` (labels), ``seconds``. ``repeated``: ``label``, ``shards``, ``extra``
        (seconds in addition to running it once).
    """
    return {
        "version": VERSION,
        "mmbuild": __version__,
        "shards": [
            {
                "index": index,
                "variants": list(shard.variants),
                "actions": [actions[key].label for key in shard.actions],
                "seconds": round(shard.seconds, 1),
            }
            for index, shard in enumerate(found.shards, 1)
        ],
        **{name: round(getattr(found, name), 1) for name in ("makespan", "bound", "critical", "total")},
        "repeated": [
            {
                "label": actions[key].label,
                "shards": [place + 1 for place in places],
                "extra": round(seconds[key] * (len(places) - 1), 1),
            }
            for key, places in found.repeated.items()
        ],
    }


def text(found: ShardPlan, actions: Mapping[str, Action], seconds: Mapping[str, float]) -> str:
    """Format the shards with their variants and estimated times, and the repeated actions."""
    lines = []
    for index, shard in enumerate(found.shards, 1):
        lines.append(f"shard {index}: {estimate_text(shard.seconds)}, {len(shard.actions)} actions")
        lines += [f"  {name}" for name in shard.variants]
    lines.append(
        f"total time {estimate_text(found.makespan)} (estimated); no split into {len(found.shards)} takes less than"
        f" {estimate_text(found.bound)}: the longest chain of actions takes {estimate_text(found.critical)},"
        f" all actions {estimate_text(found.total)}"
    )
    for key, places in found.repeated.items():
        where = ", ".join(str(place + 1) for place in places)
        extra = estimate_text(seconds[key] * (len(places) - 1))
        lines.append(f"repeated in shards {where}: {actions[key].label}, {extra} extra")
    return "\n".join(lines) + "\n"
