"""Geometry of plots; ``templates/plot.html.j2`` draws them. The output is deterministic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

_FAR = 10
"""A mark above the values by more than this factor is not drawn: it would press them onto the axis."""


@dataclass(frozen=True, slots=True)
class Plot:
    """Values at 1, 2, ... over axes from 0 to a round number.

    Attributes:
        values: Not empty, not negative.
        title: Heading.
        across: Label of the horizontal axis.
        up: Label of the vertical axis.
        mark: A horizontal line, such as a gate's bound; None if there is none.
        as_bars: Draw bars instead of connected points.
    """

    width: ClassVar[int] = 420
    height: ClassVar[int] = 216
    left: ClassVar[int] = 56
    right: ClassVar[int] = 412
    top: ClassVar[int] = 28
    bottom: ClassVar[int] = 174

    values: Sequence[float]
    title: str
    across: str
    up: str
    mark: float | None = None
    as_bars: bool = False

    @property
    def count(self) -> int:
        return len(self.values)

    @property
    def marked(self) -> bool:
        """Whether the mark is drawn; otherwise there is none, or it is far above all values."""
        return self.mark is not None and self.mark <= _FAR * max(self.values)

    @property
    def most(self) -> float:
        """The upper end of the vertical axis: a round number that no value exceeds, nor the mark if it is drawn."""
        most = max(*self.values, self.mark or 0.0) if self.marked else max(self.values)
        if most <= 0:
            return 1.0
        step = 10.0 ** math.floor(math.log10(most))
        return next(factor * step for factor in (1, 2, 5, 10) if factor * step >= most)

    @property
    def y_ticks(self) -> tuple[float, ...]:
        return (0.0, self.most / 2, self.most)

    @property
    def x_ticks(self) -> list[tuple[float, int]]:
        """(x, number) of the values that are numbered below the axis."""
        step = self._step
        numbers = sorted({1, *(round(part * self.count / 4) for part in (1, 2, 3, 4))} - {0})
        return [(self.left + (number - 0.5) * step, number) for number in numbers]

    @property
    def points(self) -> list[tuple[float, float]]:
        """(x, y) of each value, in pixels from the top left."""
        step = self._step
        return [
            (self.left + (at + 0.5) * step, self.y(value))
            for at, value in enumerate(() if self.as_bars else self.values)
        ]

    @property
    def bars(self) -> list[tuple[float, float, float]]:
        """(x, y, width) of each bar; bars extend down to the axis."""
        step = self._step
        return [
            (self.left + (at + 0.1) * step, self.y(value), 0.8 * step)
            for at, value in enumerate(self.values if self.as_bars else ())
        ]

    def y(self, value: float) -> float:
        """Pixels from the top."""
        return self.bottom - value / self.most * (self.bottom - self.top)

    @property
    def _step(self) -> float:
        return (self.right - self.left) / self.count
