"""Plots as inline SVG: no script, no file beside the page, the same bytes for the same numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT = 640, 180
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 10, 12, 34


def lines(values: Sequence[float], *, title: str, across: str, mark: float | None = None) -> str:
    """One value after the other, joined.

    Args:
        values: At 1, 2, ...; not empty, none below 0.
        title: Read aloud in place of the picture.
        across: What the horizontal axis counts.
        mark: A level to draw across, such as a gate's bound; named where it lies above all values.
    """
    top = _top(values)
    count = len(values)
    points = [(_x((i + 0.5) / count), _y(value / top)) for i, value in enumerate(values)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>' for x, y in points)
    return _frame(f'<polyline points="{path}"/>{dots}', top, count, title, across, mark)


def bars(values: Sequence[float], *, title: str, across: str, mark: float | None = None) -> str:
    """One bar for each value; arguments as of :func:`lines`."""
    top = _top(values)
    count = len(values)
    wide = (WIDTH - _LEFT - _RIGHT) / count
    drawn = "".join(
        f'<rect x="{_x(i / count) + 0.1 * wide:.1f}" y="{_y(value / top):.1f}" width="{0.8 * wide:.1f}" '
        f'height="{_y(0) - _y(value / top):.1f}"/>'
        for i, value in enumerate(values)
    )
    return _frame(drawn, top, count, title, across, mark)


def _frame(inner: str, top: float, count: int, title: str, across: str, mark: float | None) -> str:
    """Axes with their ends named around ``inner``."""
    bound = ""
    if mark is not None and mark > top:
        bound = f'<text x="{WIDTH - _RIGHT}" y="{_TOP}" text-anchor="end">gate at {mark:.3g}, above</text>'
    elif mark is not None:
        y = _y(mark / top)
        bound = f'<line class="bound" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
    ends = "".join(
        f'<text x="{_LEFT - 6}" y="{_y(level) + 4:.1f}" text-anchor="end">{level * top:.3g}</text>'
        for level in (0.0, 1.0)
    )
    named = (
        f'<text x="{_x(0.5):.1f}" y="{HEIGHT - 6}" text-anchor="middle">{escape(across)}, 1 to {count}</text>'
    )
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        f'<path class="axes" d="M{_LEFT} {_TOP}V{HEIGHT - _BOTTOM}H{WIDTH - _RIGHT}"/>'
        f"{inner}{bound}{ends}{named}</svg>"
    )


def _top(values: Sequence[float]) -> float:
    """A round number that no value exceeds."""
    most = max(values)
    if most <= 0:
        return 1.0
    step = 10.0 ** math.floor(math.log10(most))
    return next(factor * step for factor in (1, 2, 5, 10) if factor * step >= most)


def _x(share: float) -> float:
    return _LEFT + share * (WIDTH - _LEFT - _RIGHT)


def _y(share: float) -> float:
    return HEIGHT - _BOTTOM - share * (HEIGHT - _BOTTOM - _TOP)
