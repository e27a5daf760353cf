"""Shards: all variants cut into parts that take about the same time and need nothing of each other.

A variant is in exactly one shard, with everything it is made from, so that shards can start together and no shared
store is needed. What variants of several shards have in common is made in each of them, which the cut avoids where it
does not cost time, and tells with its price where it does. The same recipes and times give the same cut everywhere:
nothing is asked of stores or of the machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

from mmbuild.ci.union import Union, union_of
from mmbuild.ci.variants import Variant

_AFFINITIES = (0, 1, 2, 4, 8)
"""How much a second of new work counts beside a second of a shard's end, in the starts that are tried."""

_TRIES = 10_000
"""Moves and swaps of each start that are looked at; counted, so that every machine stops at the same."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One part.

    Attributes:
        variants: Names.
        actions: Definition keys, producers first.
        seconds: From its start to its end, predicted.
    """

    variants: tuple[str, ...]
    actions: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Cut:
    """All shards.

    Attributes:
        shards: As many as were asked for; some are empty where there are fewer variants.
        makespan: Seconds of the longest.
        critical: Seconds of the longest chain of actions.
        total: Seconds of all actions, each once.
        bound: What no cut can be faster than.
        repeated: Shards (from 0) by definition key, of actions that are in several.
    """

    shards: tuple[Shard, ...]
    makespan: float
    critical: float
    total: float
    bound: float
    repeated: Mapping[str, tuple[int, ...]]


def cut(variants: Sequence[Variant], seconds: Mapping[str, float], count: int, at_once: int = 1) -> Cut:
    """Cut ``variants`` into ``count`` shards.

    Args:
        variants: What to build.
        seconds: By definition key.
        count: How many shards.
        at_once: Actions that a shard's machine runs side by side.
    """
    union = union_of([variant.graph for variant in variants])
    # Whole milliseconds: sums are exact, and no order of adding makes a difference.
    times = {key: round(seconds[key] * 1000) for key in union.actions}
    items = [_item(variant, times) for variant in variants]
    best = min(map(_improved, _starts(items, union, times, count, at_once)), key=_cost)
    shards = tuple(_shard(one, union, times) for one in best)
    places = {key: tuple(at for at, one in enumerate(best) if one.uses[key]) for key in union.actions}
    critical, total = max((item.critical for item in items), default=0), sum(times.values())
    bound = max([critical, total / (count * at_once), *(item.work / at_once for item in items)])
    return Cut(
        shards,
        max((shard.seconds for shard in shards), default=0.0),
        critical / 1000,
        total / 1000,
        bound / 1000,
        {key: found for key, found in places.items() if len(found) > 1},
    )


_Times = Mapping[str, int]
"""Milliseconds by definition key."""


@dataclass(frozen=True, slots=True, eq=False)
class _Item:
    """A variant: its actions, their milliseconds together, and those of its longest chain."""

    name: str
    keys: tuple[str, ...]
    work: int
    critical: int


@dataclass(slots=True)
class _Bin:
    """A shard being filled; ``uses`` counts the variants that need an action."""

    times: _Times
    at_once: int
    items: list[_Item] = field(default_factory=list)
    uses: Counter[str] = field(default_factory=Counter)
    work: int = 0

    def cost(self) -> float:
        longest = max((item.critical for item in self.items), default=0)
        return max(longest, self.work / self.at_once)

    def added(self, item: _Item) -> int:
        return sum(self.times[key] for key in item.keys if not self.uses[key])

    def put(self, item: _Item) -> None:
        self.work += self.added(item)
        self.uses.update(item.keys)
        self.items.append(item)

    def take(self, item: _Item) -> None:
        self.uses.subtract(item.keys)
        self.items.remove(item)
        self.work -= self.added(item)


_Bins = list[_Bin]


def _item(variant: Variant, times: _Times) -> _Item:
    ends: dict[str, int] = {}
    for action in variant.graph.actions:
        begin = max((ends[producer] for producer in action.inputs.values()), default=0)
        ends[action.definition_key] = begin + times[action.definition_key]
    return _Item(variant.name, tuple(ends), sum(times[key] for key in ends), max(ends.values(), default=0))


def _starts(items: Sequence[_Item], union: Union, times: _Times, count: int, at_once: int) -> Iterator[_Bins]:
    """Cuts to begin with: variants one by one, in two orders, and more or less inclined to stay together."""
    largest = sorted(items, key=lambda item: (-item.work, item.name))

    def dearest(item: _Item) -> tuple[int, str]:
        return max(((times[key], key) for key in item.keys if len(union.users[key]) > 1), default=(0, ""))

    together = sorted(largest, key=dearest, reverse=True)
    for order, affinity in product((largest, together), _AFFINITIES):
        yield _one_by_one(order, times, count, at_once, affinity)


def _one_by_one(order: Sequence[_Item], times: _Times, count: int, at_once: int, affinity: int) -> _Bins:
    """Each where the makespan grows least, then where it ends early and adds little."""
    bins = [_Bin(times, at_once) for _ in range(count)]
    for item in order:
        costs = [one.cost() for one in bins]
        now = max(costs)
        choices = []
        for at, one in enumerate(bins):
            more = one.added(item)
            after = max(item.critical, costs[at], (one.work + more) / at_once)
            choices.append((max(now, after) if not affinity else 0, after + affinity * more, at))
        bins[min(choices)[2]].put(item)
    return bins


def _cost(bins: _Bins) -> tuple[float, int]:
    """What is to be small: the makespan, then the work of all shards together."""
    return max(one.cost() for one in bins), sum(one.work for one in bins)


def _improved(bins: _Bins) -> _Bins:
    """Move or swap variants of the longest shard as long as that helps."""
    left = _TRIES
    while True:
        tried, better = _improve(bins, left)
        left -= tried
        if not better or left <= 0:
            return bins


def _improve(bins: _Bins, most: int) -> tuple[int, bool]:
    """The first step that lowers the cost, in a fixed order: how many were tried, and whether there was one."""
    before, tried = _cost(bins), 0
    longest = max(range(len(bins)), key=lambda at: (bins[at].cost(), -at))
    mine = sorted(bins[longest].items, key=lambda item: (-item.work, item.name))
    for at in sorted((at for at in range(len(bins)) if at != longest), key=lambda at: (bins[at].cost(), at)):
        rest = max((one.cost() for place, one in enumerate(bins) if place not in (at, longest)), default=0.0)
        total = before[1] - bins[at].work - bins[longest].work
        theirs = [None, *sorted(bins[at].items, key=lambda item: (-item.work, item.name))]
        for item, other in product(mine, theirs):
            tried += 1
            _exchange(bins[longest], bins[at], item, other)
            pair = bins[longest], bins[at]
            if (max(rest, *(one.cost() for one in pair)), total + sum(one.work for one in pair)) < before:
                return tried, True
            _exchange(bins[at], bins[longest], item, other)
            if tried >= most:
                return tried, False
    return tried, False


def _exchange(one: _Bin, another: _Bin, item: _Item, other: _Item | None) -> None:
    """``item`` from one to another, and ``other``, if any, back."""
    one.take(item)
    another.put(item)
    if other is not None:
        another.take(other)
        one.put(other)


def _shard(one: _Bin, union: Union, times: _Times) -> Shard:
    names = tuple(sorted(item.name for item in one.items))
    keys = tuple(key for key in union.actions if one.uses[key])
    return Shard(names, keys, _scheduled(keys, union, times, one.at_once) / 1000)


def _scheduled(keys: Sequence[str], union: Union, times: _Times, at_once: int) -> int:
    """Milliseconds that list scheduling takes, the longest way to the end first, as the executor does it."""
    if at_once == 1:
        return sum(times[key] for key in keys)
    rest = {key: times[key] for key in keys}
    for key in reversed(keys):
        for producer in union.actions[key].inputs.values():
            rest[producer] = max(rest[producer], times[producer] + rest[key])
    ends: dict[str, int] = {}
    machine = [0] * at_once
    waiting = list(keys)
    while waiting:
        ready = {
            key: max((ends[producer] for producer in union.actions[key].inputs.values()), default=0)
            for key in waiting
            if all(producer in ends for producer in union.actions[key].inputs.values())
        }
        free = min(range(at_once), key=lambda at: (machine[at], at))
        moment = max(machine[free], min(ready.values()))
        chosen = min((key for key in ready if ready[key] <= moment), key=lambda key: (-rest[key], key))
        ends[chosen] = machine[free] = moment + times[chosen]
        waiting.remove(chosen)
    return max(ends.values(), default=0)
