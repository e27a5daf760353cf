"""Detects repetition loops from the variance of the top logit.

When a model repeats itself, the variance of the top logits over a few steps becomes constant. Criterion and constants
are those of Nougat's decoding (``StoppingCriteriaScores`` and ``NougatModel.inference`` in
github.com/facebookresearch/nougat, ``nougat/model.py``), for a single sequence.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Repetition:
    """Parameters of the criterion.

    Attributes:
        steps: Number of steps for one spread (variance of top logits).
        window: Number of spreads whose variance is monitored during decoding.
        threshold: Variance of spreads below which decoding counts as a loop.
        tail_threshold: The same for the spreads from some step to the end, checked after decoding.
        shortest_tail: Minimum number of spreads in such a tail.
        slack: Number of tokens to keep in addition to ``share`` times the tokens before the repetition.
        share: See ``slack``.
        longest: Maximum number of tokens to keep of a repeating answer.
    """

    steps: int = 15
    window: int = 200
    threshold: float = 0.015
    tail_threshold: float = 0.045
    shortest_tail: int = 10
    slack: int = 120
    share: float = 1.08
    longest: int = 4095

    def watch(self) -> Watch:
        """A new detector for one sequence."""
        return Watch(self)

    def kept_length(self, largest: Sequence[float], *, ended: bool) -> int:
        """Number of tokens of a decoded sequence to keep.

        Args:
            largest: Largest logit of each step.
            ended: Whether the sequence ended with an end token; such an answer is kept completely.

        Returns:
            ``len(largest)`` if nothing repeats.
        """
        count = len(largest)
        steady = np.flatnonzero(self._tails(np.asarray(largest, np.float64)) < self.tail_threshold)
        if ended or len(steady) < 2 or np.any(np.diff(steady) > 1):
            return count
        first = int(steady[0])
        # Nougat also counts the start token, which is not in `largest`.
        cut = int(min(max(first, 1) * self.share + self.slack, self.longest))
        if cut / count > 0.9:  # too little to be worth cutting
            return count
        return 0 if first < 30 else cut - 1

    def _tails(self, largest: NDArray[np.float64]) -> NDArray[np.float64]:
        """Variance of the spreads from each step to the end, float64 [steps]."""
        if len(largest) <= self.steps:
            return np.empty(0)
        windows = np.lib.stride_tricks.sliding_window_view(largest, self.steps)[:-1]
        backwards = (windows.var(axis=1) / self.steps)[::-1]
        if len(backwards) < self.shortest_tail:
            return np.empty(0)
        shifted = backwards - backwards.mean()  # avoids cancellation in the difference below
        number = np.arange(1, len(shifted) + 1)
        mean = np.cumsum(shifted) / number
        variance = np.cumsum(shifted**2) / number - mean**2
        return np.maximum(variance[self.shortest_tail - 1 : -1], 0.0)[::-1]


class Watch:
    """Gets the largest logit of every step and decides when to stop.

    Nougat intends to continue a repetition for a while before it stops (15 % and 150 tokens), but its comparison is
    inverted, so it stops at the second steady step in a row. This class reproduces that behaviour.
    """

    def __init__(self, numbers: Repetition) -> None:
        """``numbers``: parameters of the criterion."""
        self._numbers = numbers
        self._largest: deque[float] = deque(maxlen=numbers.steps)
        self._spreads: deque[float] = deque(maxlen=numbers.window)
        self._seen = 0
        self._steady = False

    def __call__(self, largest: float) -> bool:
        """Whether decoding should stop after the step whose largest logit is ``largest``."""
        self._largest.append(largest)
        self._spreads.append(_variance(self._largest) / len(self._largest))
        self._seen += 1
        if self._seen < self._numbers.window:
            return False
        # False while the first spread, which is NaN, is in the window.
        steady = _variance(self._spreads) < self._numbers.threshold
        stop = steady and self._steady and self._seen <= self._numbers.longest
        self._steady = steady
        return stop


def _variance(values: deque[float]) -> float:
    """Sample variance; NaN for a single value."""
    return float(np.var(values, ddof=1)) if len(values) > 1 else float("nan")
