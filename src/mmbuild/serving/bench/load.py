"""When requests start: loads, how long a run takes, and Poisson arrivals."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile

from mmbuild.base.errors import UsageError

KINDS = {
    "batch": "batches of {value:g}",
    "clients": "{value:g} at once",
    "rate": "{value:g} per second",
}
"""Kind of a load -> its name in tables.

``batch`` and ``clients`` are closed loops: the next request starts when one ends, or the next batch when all of its
requests end. ``rate`` is an open loop: requests arrive at random moments, however many are still being answered.
"""

_MOST = {"batch": 100_000.0, "clients": 100_000.0, "rate": 1e6}


@dataclass(frozen=True, slots=True)
class Load:
    """The load of one run: a key of :data:`KINDS`, and its number."""

    kind: str
    value: float

    @property
    def name(self) -> str:
        """Such as ``8 at once``."""
        return KINDS[self.kind].format(value=self.value)

    @property
    def at_once(self) -> int:
        """Requests at the same time in a closed loop; 1 for a rate, which has no such number."""
        return 1 if self.kind == "rate" else int(self.value)


@dataclass(frozen=True, slots=True)
class Extent:
    """How long a run takes.

    Attributes:
        requests: Number of requests; None if the time decides.
        seconds: No request starts later than this; None if the number decides. Those that have started are answered.
        warmup: Requests of each client, or batches, before the run; they are not measured.
    """

    requests: int | None
    seconds: float | None = None
    warmup: int = 1

    def goes_on(self, started: int, now: float) -> bool:
        """Whether another request may start ``now`` seconds after the start of the run."""
        if self.requests is not None and started >= self.requests:
            return False
        return self.seconds is None or now < self.seconds


def arrivals(rate: float, extent: Extent, seed: int) -> Iterator[float]:
    """Moments of a Poisson process, in seconds since the start: gaps are exponential with mean ``1 / rate``.

    The same seed gives the same moments; at another rate they are scaled.
    """
    moments = _poisson(rate, seed)
    limit = extent.seconds
    if limit is not None:
        moments = takewhile(lambda moment: moment < limit, moments)
    for started, moment in enumerate(moments):
        if extent.requests is not None and started >= extent.requests:
            return
        yield moment


def _poisson(rate: float, seed: int) -> Iterator[float]:
    rng, moment = random.Random(seed), 0.0
    while True:
        moment += rng.expovariate(1.0) / rate
        yield moment


def parse(kind: str, text: str) -> list[Load]:
    """The loads in a list such as ``1,2,8``, each once.

    Raises:
        UsageError: MM860, it is not a list of positive numbers, or of whole ones in a closed loop.
    """
    loads = []
    for part in text.split(","):
        value = _number(part)
        whole = kind == "rate" or value == int(value)
        if not 0 < value <= _MOST[kind] or not whole:
            expected = "a positive number" if kind == "rate" else "a positive whole number"
            raise UsageError(
                f"`{part.strip()}` in `{text}` is not {expected}",
                code="MM860",
                hint=f"give numbers separated by commas, such as `--{kind} 1,2,4`",
            )
        loads.append(Load(kind, value))
    return list(dict.fromkeys(loads))


def _number(text: str) -> float:
    """The number, or 0 if there is none."""
    try:
        value = float(text)
    except ValueError:
        return 0.0
    return value if math.isfinite(value) else 0.0
