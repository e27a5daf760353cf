"""Shards: all variants split into parts that take about the same time and need nothing from each other.

A variant is in exactly one shard, with everything it is built from, so that shards can start together and no shared
store is needed. What variants of several shards have in common is built in each of them, which the split avoids where
it does not cost time, and reports with its price where it does. The same recipes and times give the same split
everywhere: neither stores nor the machine are asked.
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
    """One part.

    Attributes:
        variants: Names.
        actions: Definition keys, producers first.
        seconds: From its start to its end, estimated: its longest chain, or its work over what runs at once.
    """

    variants: tuple[str, ...]
    actions: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """All shards.

    Attributes:
        shards: As many as were asked for; some are empty where there are fewer variants.
        makespan: Seconds of the longest.
        critical: Seconds of the longest chain of actions.
        total: Seconds of all actions, each once.
        bound: What no split can be faster than.
        repeated: Shards (from 0) by definition key, of actions that are in several.
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
    """Split ``variants`` into ``count`` shards, in one pass over the variants, the longest first.

    A variant goes to the shard where the end of all grows least beyond the bound, of these to the one where it adds
    least work, and of these to the one that ends first. Without shared actions this is Graham's rule of the longest
    time first, at most 4/3 of the best (R. L. Graham, "Bounds on multiprocessing timing anomalies", 1969).

    Args:
        variants: What to build.
        seconds: By definition key.
        count: How many shards.
        at_once: Actions that a shard's machine runs side by side.
    """
    union = union_of([variant.graph for variant in variants])
    # Whole milliseconds: sums are exact, and no order of adding makes a difference.
    times = {key: round(seconds[key] * 1000) for key in union.actions}
    items = sorted((_item(variant, times) for variant in variants), key=lambda item: (-item.work, item.name))
    critical, total = max((item.critical for item in items), default=0), sum(times.values())
    bound = max([critical, total / (count * at_once), *(item.work / at_once for item in items)])
    bins = [_Bin(times, at_once) for _ in range(count)]
    end = bound
    for item in items:
        ends = [one.end_with(item) for one in bins]
        added = [one.added(item) for one in bins]
        place = min(range(count), key=lambda at: (max(end, ends[at]), added[at], ends[at], at))
        end = max(end, ends[place])
        bins[place].put(item)
    shards = tuple(one.shard(union.actions) for one in bins)
    places = {key: tuple(at for at, one in enumerate(bins) if key in one.keys) for key in union.actions}
    return ShardPlan(
        shards,
        max((shard.seconds for shard in shards), default=0.0),
        critical / 1000,
        total / 1000,
        bound / 1000,
        {key: found for key, found in places.items() if len(found) > 1},
    )


@dataclass(frozen=True, slots=True)
class _Item:
    """A variant: its actions, their milliseconds together, and those of its longest chain."""

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
    """The versioned JSON form.

    Returns:
        ``{"version", "mmbuild", "shards", "makespan", "bound", "critical", "total", "repeated"}``. A shard: ``index``
        (from 1), ``variants``, ``actions`` (labels), ``seconds``. ``repeated``: ``label``, ``shards``, ``extra``
        (seconds beyond doing it once).
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
    """Shards with their variants, the end they are predicted to have, and what is done more than once."""
    lines = []
    for index, shard in enumerate(found.shards, 1):
        lines.append(f"shard {index}: {estimate_text(shard.seconds)}, {len(shard.actions)} actions")
        lines += [f"  {name}" for name in shard.variants]
    lines.append(
        f"all done after {estimate_text(found.makespan)} (estimated); no cut into {len(found.shards)} takes less than"
        f" {estimate_text(found.bound)}: the longest chain of actions takes {estimate_text(found.critical)},"
        f" all of them {estimate_text(found.total)}"
    )
    for key, places in found.repeated.items():
        where = ", ".join(str(place + 1) for place in places)
        extra = estimate_text(seconds[key] * (len(places) - 1))
        lines.append(f"made in each of shards {where}: {actions[key].label}, {extra} more")
    return "\n".join(lines) + "\n"
