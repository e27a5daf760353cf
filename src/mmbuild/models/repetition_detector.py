"""When an answer goes round in circles, told by how steady the largest logit of its steps has become.

A model that repeats itself is sure of itself in a regular way: the spread of the largest logits over a few steps
stops changing. The criterion and its numbers are those of Nougat's own decoding (``StoppingCriteriaScores`` and
``NougatModel.inference`` in github.com/facebookresearch/nougat, ``nougat/model.py``), stated for one sequence.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Repetition:
    """The numbers of the criterion.

    Attributes:
        steps: Steps over which one spread is taken.
        window: Spreads whose variance is watched while decoding.
        threshold: Variance below which decoding counts as going round in circles.
        tail_threshold: The same for the spreads from some step to the end, looked at after decoding.
        shortest_tail: Spreads that such a tail has at least.
        slack: Tokens kept after the step where a repetition is found, beside ``share`` of those before.
        share: See ``slack``.
        longest: Largest number of tokens that are kept of a repetition.
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
        """A fresh observer of one sequence."""
        return Watch(self)

    def kept_length(self, largest: Sequence[float], *, ended: bool) -> int:
        """How many tokens of a decoded sequence to keep.

        Args:
            largest: Largest logit of each step.
            ended: Whether the sequence ended by an end token; such an answer is kept whole.

        Returns:
            ``len(largest)`` where nothing repeats.
        """
        count = len(largest)
        steady = np.flatnonzero(self._tails(np.asarray(largest, np.float64)) < self.tail_threshold)
        if ended or len(steady) < 2 or np.any(np.diff(steady) > 1):
            return count
        first = int(steady[0])
        # Nougat counts the start token too, which is none of `largest`.
        cut = int(min(max(first, 1) * self.share + self.slack, self.longest))
        if cut / count > 0.9:  # the last bit of a page at most: not worth cutting
            return count
        return 0 if first < 30 else cut - 1

    def _tails(self, largest: NDArray[np.float64]) -> NDArray[np.float64]:
        """Variance of the spreads from each step on to the end, float64 [steps]."""
        if len(largest) <= self.steps:
            return np.empty(0)
        windows = np.lib.stride_tricks.sliding_window_view(largest, self.steps)[:-1]
        backwards = (windows.var(axis=1) / self.steps)[::-1]
        if len(backwards) < self.shortest_tail:
            return np.empty(0)
        shifted = backwards - backwards.mean()  # so that the difference below cancels nothing
        number = np.arange(1, len(shifted) + 1)
        mean = np.cumsum(shifted) / number
        variance = np.cumsum(shifted**2) / number - mean**2
        return np.maximum(variance[self.shortest_tail - 1 : -1], 0.0)[::-1]


class Watch:
    """Fed the largest logit of every step, says when to stop.

    Nougat means to let a repetition go on for a while before it stops (15 % and 150 tokens), but compares the
    other way round, and so stops at the second steady step in a row. That is what its users see, and what is done
    here.
    """

    def __init__(self, numbers: Repetition) -> None:
        """``numbers``: of the criterion."""
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
        # False while the first spread, which one value cannot have, is among them.
        steady = _variance(self._spreads) < self._numbers.threshold
        stop = steady and self._steady and self._seen <= self._numbers.longest
        self._steady = steady
        return stop


def _variance(values: deque[float]) -> float:
    """Variance of a sample; NaN of a single value."""
    return float(np.var(values, ddof=1)) if len(values) > 1 else float("nan")
