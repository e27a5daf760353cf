"""Progress as text of a given width: the least important parts are left out first, and no word is broken."""

from __future__ import annotations

from collections.abc import Iterable

from mmbuild.base.formatting import estimate_text, size_text
from mmbuild.base.pace import Pace, rate, seconds_left
from mmbuild.base.progress import BYTES, Amount

_MISSING = "\u2026"


def amount_text(amount: Amount) -> str:
    """``3.1/13.5 GB``, ``12/32 layers``, ``25%``; without a total ``3.1 GB``, ``12 layers``."""
    if amount.unit == BYTES:
        return _bytes_text(amount)
    if amount.total is None:
        return f"{amount.done:.0f} {amount.unit}".rstrip()
    if not amount.unit:
        return f"{amount.fraction:.0%}"
    return f"{amount.done:,.0f}/{amount.total:,.0f} {amount.unit}"


def pace_text(pace: Pace, now: float) -> tuple[str, str]:
    """The rate and the time left, such as ``210.0 MB/s`` and ``49 s left``; each is empty if it is unknown.

    Less than one unit in a second is shown as the time for one: ``12 s each``.
    """
    speed, left = rate(pace, now), seconds_left(pace, now)
    if pace.amount.complete:
        speed = None
    shown_left = "" if left is None else f"{estimate_text(max(1.0, left))} left"
    if speed is None or not pace.amount.unit:
        return "", shown_left
    if pace.amount.unit == BYTES:
        return f"{size_text(speed)}/s", shown_left
    return (f"{speed:.1f}/s" if speed >= 1 else f"{estimate_text(1 / speed)} each"), shown_left


def progress_text(message: str, pace: Pace | None, now: float, width: int) -> str:
    """Message, amount, rate and time left in ``width`` columns.

    If they do not fit, the rate is left out first, then words at the end of the message, then the time left.
    """
    if pace is None:
        return words_that_fit(message, width)
    amount = amount_text(pace.amount)
    speed, left = pace_text(pace, now)
    whole = _joined(message, (amount, speed, left))
    if columns(whole) <= width:
        return whole
    for parts in ((amount, left), (amount, "")):
        numbers = _joined("", parts)
        if columns(numbers) <= width:
            return _joined(words_that_fit(message, width - columns(numbers) - 1), parts)
    return ""


def words_that_fit(text: str, width: int) -> str:
    """The first words of ``text`` that fit into ``width`` columns, with an ellipsis if there are more."""
    if columns(text) <= width:
        return text
    words = text.split(" ")
    for count in range(len(words) - 1, 0, -1):
        shortened = f"{' '.join(words[:count]).rstrip(',:;')} {_MISSING}"
        if columns(shortened) <= width:
            return shortened
    return ""


def end_that_fits(text: str, width: int) -> str:
    """``text``, or its end with an ellipsis: the end of an action's label says what it does."""
    if columns(text) <= width:
        return text
    kept = text
    while kept and columns(kept) > width - 1:
        kept = kept[1:]
    return _MISSING + kept if width > 0 else ""


def columns(text: str) -> int:
    """Columns of a terminal that ``text`` takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _bytes_text(amount: Amount) -> str:
    if amount.total is None:
        return size_text(amount.done)
    number, _, unit = size_text(amount.total).partition(" ")
    scale = {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}[unit]
    done = f"{amount.done:.0f}" if unit == "B" else f"{amount.done / scale:.1f}"
    return f"{done}/{number} {unit}"


def _joined(message: str, parts: Iterable[str]) -> str:
    return f"{message} {', '.join(filter(None, parts))}".strip()
