"""Which request gets a slot of the engine, and what each turn of the engine does. Pure: no engine, no clock.

A slot is a row of the caches of a session. Requests get slots in the order of their arrival. A turn reads a
limited number of tokens of prompts, and then decodes one token of every request that had been read before. So a
request that has started gets a token every turn, and waits for no more than that many tokens of other prompts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from mmbuild.base.errors import MmbuildError

_MOST_PADDING = 0.25


class QueueFullError(MmbuildError):
    """As many requests wait as may wait (MM870)."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A piece of a prompt to read.

    Attributes:
        key: The request.
        slot: Its slot.
        first: Place of the piece's first token in the prompt.
        count: Tokens of the piece.
        last: Whether it is the last piece.
    """

    key: int
    slot: int
    first: int
    count: int
    last: bool


@dataclass(frozen=True, slots=True)
class Turn:
    """What to do next.

    Attributes:
        reading: Pieces of prompts to read, in this order.
        decoding: Key and slot of the requests that get a token, in the order of slots.
    """

    reading: tuple[Reading, ...]
    decoding: tuple[tuple[int, int], ...]


@dataclass(slots=True)
class _Waiting:
    key: int
    length: int
    slot: int = -1
    done: int = 0


@dataclass(slots=True)
class Scheduler:
    """Slots and the queue for them.

    Attributes:
        slots: How many requests the engine decodes together.
        queue: How many requests may wait for a slot.
        together: How many whole prompts a turn may read if nobody decodes.
    """

    slots: int
    queue: int
    together: int = 1
    _waiting: deque[_Waiting] = field(default_factory=deque)
    _reading: dict[int, _Waiting] = field(default_factory=dict)
    _decoding: dict[int, int] = field(default_factory=dict)
    _free: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._free = list(range(self.slots))

    @property
    def waiting(self) -> int:
        """Requests without a slot."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Requests with a slot."""
        return self.slots - len(self._free)

    def add(self, key: int, length: int) -> None:
        """Put a request with a prompt of ``length`` tokens at the end of the queue.

        Raises:
            QueueFullError: MM870.
        """
        # A request for which there is a slot does not wait.
        if len(self._waiting) >= self.queue + len(self._free):
            raise QueueFullError(
                f"{len(self._waiting)} requests are waiting, which is the most",
                code="MM870",
                hint="try again later, or start the server with a larger --queue",
            )
        self._waiting.append(_Waiting(key, length))

    def remove(self, key: int) -> None:
        """Remove a request in any state; its slot is free again. Unknown ones are ignored."""
        if key in self._decoding:
            self._release(self._decoding.pop(key))
        elif key in self._reading:
            self._release(self._reading.pop(key).slot)
        else:
            self._waiting = deque(one for one in self._waiting if one.key != key)

    def turn(self, tokens: int | None) -> Turn | None:
        """The next turn; None if there is nothing to do.

        Args:
            tokens: The most tokens of prompts to read while others decode; None: whole prompts. If nobody decodes,
                prompts are read whole.
        """
        decoding = tuple(sorted(self._decoding.items(), key=lambda pair: pair[1]))
        reading = tuple(self._chosen(tokens if decoding else None))
        return Turn(reading, decoding) if reading or decoding else None

    def _chosen(self, most: int | None) -> Iterator[Reading]:
        """What to read of at most ``most`` tokens; None: a group of whole prompts."""
        left = most
        for number, known in enumerate(self._readable(), start=1):
            rest = known.length - known.done
            if left is None:
                yield self._piece(known, None)
                if number == self.together:
                    return
            elif rest <= left:
                yield self._piece(known, rest)
                left -= rest
            else:
                # A prompt that a turn has room for is not cut: pieces by themselves take longer.
                if most is not None and rest > most and left:
                    yield self._piece(known, left)
                return

    def read(self, reading: Reading) -> None:
        """Note that a piece has been read; after the last one the request decodes."""
        known = self._reading.get(reading.key)
        if known is None:
            return  # it was removed meanwhile
        known.done += reading.count
        if reading.last:
            self._decoding[known.key] = known.slot
            del self._reading[known.key]

    def _readable(self) -> Iterator[_Waiting]:
        """Prompts to read: one that has been begun, then those that are given slots now."""
        yield from list(self._reading.values())
        while self._waiting and self._free:
            known = self._waiting.popleft()
            known.slot = self._free.pop(0)
            self._reading[known.key] = known
            yield known

    def _piece(self, known: _Waiting, most: int | None) -> Reading:
        left = known.length - known.done
        count = left if most is None else min(left, most)
        return Reading(known.key, known.slot, known.done, count, last=count == left)

    def _release(self, slot: int) -> None:
        # The lowest free slot first: the engine steps through all rows up to the highest in use.
        self._free = sorted([*self._free, slot])


def groups(readings: Sequence[Reading], most: int) -> Iterator[Sequence[Reading]]:
    """Whole prompts of about the same length, as many as may be read together; pieces of prompts by themselves.

    All in their order.
    """
    group: list[Reading] = []
    for one in readings:
        whole = one.last and not one.first
        if group and (len(group) == most or not whole or _padding([*group, one]) > _MOST_PADDING):
            yield group
            group = []
        if whole:
            group.append(one)
        else:
            yield [one]
    if group:
        yield group


def _padding(readings: Sequence[Reading]) -> float:
    """Tokens that are computed for nothing, as a share of the others: prompts are padded to the longest."""
    counts = [one.count for one in readings]
    return len(counts) * max(counts) / sum(counts) - 1
