"""Geometry of plots; ``templates/plot.html.j2`` draws them. The output is deterministic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Plot:
    """Values at 1, 2, ... over axes from 0 to a round number.

    Attributes:
        values: Not empty, not negative.
        title: Label for screen readers.
        across: Label of the horizontal axis.
        mark: A horizontal line, such as a gate's bound; shown as text if it is above all values.
        as_bars: Draw bars instead of connected points.
    """

    width: ClassVar[int] = 640
    height: ClassVar[int] = 180
    left: ClassVar[int] = 64
    right: ClassVar[int] = 630
    top: ClassVar[int] = 12
    bottom: ClassVar[int] = 146

    values: Sequence[float]
    title: str
    across: str
    mark: float | None = None
    as_bars: bool = False

    @property
    def count(self) -> int:
        return len(self.values)

    @property
    def most(self) -> float:
        """The upper end of the vertical axis: a round number that no value exceeds."""
        most = max(self.values)
        if most <= 0:
            return 1.0
        step = 10.0 ** math.floor(math.log10(most))
        return next(factor * step for factor in (1, 2, 5, 10) if factor * step >= most)

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
