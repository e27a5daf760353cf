"""Geometry of the page's curves; ``templates/curves.html.j2`` draws them. The output is deterministic."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from mmbuild.serving.bench.document import load

_OFFSETS = (16, -8, 28, -20)
"""Pixels from a point to the baselines that its label may have."""
_LETTER, _LINE = 7.5, 12
"""Pixels that a label takes across for each character, and down."""
_CAPITAL, _MARK = 9, 4
"""Pixels from the baseline of a label to its top, and from the middle of a point to its edge."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Connected points.

    Attributes:
        name: For the legend.
        style: CSS class.
        points: (x, y), both not negative.
        labels: A short text at each point, or empty texts.
    """

    name: str
    style: str
    points: tuple[tuple[float, float], ...]
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """Curves over axes from 0 to a round number.

    Attributes:
        title: Heading.
        across: Label of the horizontal axis.
        up: Label of the vertical axis.
        curves: Not empty, with points.
    """

    width: ClassVar[int] = 400
    height: ClassVar[int] = 270
    left: ClassVar[int] = 46
    right: ClassVar[int] = 384
    top: ClassVar[int] = 26
    bottom: ClassVar[int] = 224

    title: str
    across: str
    up: str
    curves: tuple[Curve, ...]

    @property
    def x_ticks(self) -> list[float]:
        """Round numbers along the horizontal axis, the last at its end."""
        return ticks(max(x for curve in self.curves for x, _ in curve.points))

    @property
    def y_ticks(self) -> list[float]:
        """Round numbers along the vertical axis, the last at its end."""
        return ticks(max(y for curve in self.curves for _, y in curve.points))

    def x(self, value: float) -> float:
        """Pixels from the left."""
        return self.left + value / self.x_ticks[-1] * (self.right - self.left)

    def y(self, value: float) -> float:
        """Pixels from the top."""
        return self.bottom - value / self.y_ticks[-1] * (self.bottom - self.top)

    @property
    def labels(self) -> list[tuple[float, float, str]]:
        """Middle, baseline and text of the labels that fit near their point without covering another or a point."""
        placed: list[tuple[float, float, str]] = []
        marks = [(self.x(x), self.y(y)) for curve in self.curves for x, y in curve.points]
        for curve in self.curves:
            for (x, y), text in zip(curve.points, curve.labels, strict=True):
                middle, free = self.x(x), (self.y(y) + offset for offset in _OFFSETS)
                places = ((middle, base, text) for base in free if base < self.bottom)
                place = next(
                    (
                        one
                        for one in places
                        if not any(_overlap(one, other) for other in placed)
                        and not any(_covers(one, mark) for mark in marks)
                    ),
                    None,
                )
                if text and place is not None:
                    placed.append(place)
        return placed


def _overlap(one: tuple[float, float, str], other: tuple[float, float, str]) -> bool:
    widths = (len(one[2]) + len(other[2])) * _LETTER / 2
    return abs(one[0] - other[0]) < widths and abs(one[1] - other[1]) < _LINE


def _covers(label: tuple[float, float, str], mark: tuple[float, float]) -> bool:
    middle, base, text = label
    beside = abs(mark[0] - middle) >= len(text) * _LETTER / 2 + _MARK
    return not beside and base - _CAPITAL - _MARK < mark[1] < base + _MARK


def ticks(most: float) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten from 0 to the first that reaches ``most``: three to six of them."""
    if most <= 0:
        return [0.0, 0.5, 1.0]
    step = 10.0 ** math.floor(math.log10(most))
    step *= next(factor for factor in (0.2, 0.5, 1.0, 2.0) if most <= 5 * factor * step)
    count = max(2, math.ceil(most / step - 1e-9))
    return [number * step for number in range(count + 1)]


_LOOPS = (("closed", ("batch", "clients")), ("open", ("rate",)))
_SHOWN = (("p50", "median"), ("p99", "99th percentile"))


def charts(result: Mapping[str, Any]) -> list[Chart]:
    """Throughput against latency, and the parts of latency; charts without points are left out."""
    chosen = (
        (
            "Throughput against latency",
            "output tokens/s",
            "tokens_per_second",
            "whole answer, s",
            "whole",
            1.0,
        ),
        ("Time to first token", "requests/s", "requests_per_second", "first token, ms", "first_token", 1e3),
        ("Time per token", "output tokens/s", "tokens_per_second", "per token, ms", "per_token", 1e3),
    )
    drawn = []
    for title, across, rate, up, time, scale in chosen:
        curves = _curves(result["runs"], rate, time, scale)
        if curves:
            drawn.append(Chart(title, across, up, curves))
    return drawn


def _curves(runs: Sequence[Mapping[str, Any]], rate: str, time: str, scale: float) -> tuple[Curve, ...]:
    curves = []
    for loop, kinds in _LOOPS:
        own = [run for run in runs if run["load"]["kind"] in kinds and run["summary"][time] is not None]
        own.sort(key=lambda run: float(run["load"]["value"]))
        for percentile, name in _SHOWN if own else ():
            points = tuple(
                (float(run["summary"][rate]), max(0.0, run["summary"][time][percentile]) * scale)
                for run in own
            )
            labels = tuple(_label(run) if percentile == "p50" else "" for run in own)
            curves.append(Curve(f"{loop} loop, {name}", f"{loop} {percentile}", points, labels))
    return tuple(curves)


def _label(run: Mapping[str, Any]) -> str:
    one = load(run)
    return f"{one.value:g}/s" if one.kind == "rate" else f"{one.value:g}"
