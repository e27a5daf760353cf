"""Progress of long work: how much of what is done. It is displayed, and never part of a result or a key."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Amount:
    """How much of some work is done.

    Attributes:
        done: How much is done, in ``unit``.
        total: How much there is; None if that is unknown.
        unit: ``bytes``, or the plural of what is counted: ``layers``, ``packages``; empty for a plain fraction.
        skipped: The part of ``done`` that cost nothing now, such as bytes of an earlier download; not part of rates.
    """

    done: float
    total: float | None
    unit: str = ""
    skipped: float = 0

    @property
    def fraction(self) -> float | None:
        """Done of total, 0 to 1; None if the total is unknown. Nothing to do counts as done."""
        if self.total is None:
            return None
        return 1.0 if self.total <= 0 else min(1.0, max(0.0, self.done / self.total))

    @property
    def complete(self) -> bool:
        """Whether everything is done."""
        return self.total is not None and self.done >= self.total


Progress = Callable[[str, Amount | float | None], None]
"""``progress(message, amount)``; a number is a fraction of 1, None means that nothing can be counted."""

BYTES = "bytes"

_BURST = 20
_PER_SECOND = 5.0


def silent(message: str, amount: Amount | float | None) -> None:
    """Ignore progress."""


def as_amount(amount: Amount | float | None) -> Amount | None:
    """``amount`` with a plain number as a fraction of 1."""
    return Amount(float(amount), 1.0) if isinstance(amount, (int, float)) else amount


def as_data(message: str, amount: Amount | float | None) -> dict[str, Any]:
    """The fields of a progress event."""
    known = as_amount(amount)
    if known is None:
        return {"message": message, "fraction": None, "done": None, "total": None, "unit": "", "skipped": 0}
    return {
        "message": message,
        "fraction": known.fraction,
        "done": known.done,
        "total": known.total,
        "unit": known.unit,
        "skipped": known.skipped,
    }


def from_data(data: Mapping[str, Any]) -> Amount | None:
    """The amount in the fields of a progress event."""
    if data.get("done") is None:
        return as_amount(data.get("fraction"))
    return Amount(data["done"], data.get("total"), data.get("unit", ""), data.get("skipped", 0))


def limited(progress: Progress, clock: Callable[[], float] = time.monotonic) -> Progress:
    """``progress`` called at most five times a second after a burst of 20 reports, and for each complete amount.

    Steps may then report as often as is convenient: a loop over small tensors costs nothing noticeable.
    """
    left, last = float(_BURST), clock()

    def report(message: str, amount: Amount | float | None = None) -> None:
        nonlocal left, last
        now = clock()
        left = min(_BURST, left + (now - last) * _PER_SECOND)
        last = now
        known = as_amount(amount)
        if left < 1 and not (known is not None and known.complete):
            return
        left = max(0.0, left - 1)
        progress(message, amount)

    return report
