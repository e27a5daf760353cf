"""Means over questions with their 95 % intervals.

The samples are questions, not tokens: tokens of one answer depend on each other. So do questions about one image,
which makes the intervals too narrow rather than too wide.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_Z = 1.959964
_RESAMPLES, _AT_ONCE = 10_000, 1_000
# Two-sided 95 % quantiles of Student's t for 1 to 30 degrees of freedom; for more, the normal one is close enough.
_T = (
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281,
    2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860,
    2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value measured on samples.

    Attributes:
        value: The estimate.
        error: Its standard error; None with fewer than two samples.
        interval: Its 95 % interval; None with fewer than two samples.
        samples: Number of questions.
    """

    value: float
    error: float | None
    interval: tuple[float, float] | None
    samples: int


def quantile(freedom: int) -> float:
    """Two-sided 95 % quantile of Student's t."""
    return _T[freedom - 1] if freedom <= len(_T) else _Z


def ratio(sums: Sequence[float], weights: Sequence[float]) -> Estimate:
    """``sum(sums) / sum(weights)``: a mean per token, where ``weights`` are the numbers of tokens per question.

    The error is that of the ratio estimator (Cochran, Sampling Techniques, section 6.4): residuals are relative to
    the common ratio, so long answers count for more.
    """
    count, total = len(sums), sum(weights)
    value = sum(sums) / total
    if count < 2:
        return Estimate(value, None, None, count)
    squares = sum((part - value * weight) ** 2 for part, weight in zip(sums, weights, strict=True))
    error = math.sqrt(squares * count / (count - 1)) / total
    half = quantile(count - 1) * error
    return Estimate(value, error, (value - half, value + half), count)


def mean(values: Sequence[float]) -> Estimate:
    """The mean of one value per question."""
    return ratio(values, [1.0] * len(values))


def share(hits: Sequence[bool]) -> Estimate:
    """The fraction of ``hits`` with Wilson's interval, which is valid for few samples and at 0 and 1 too."""
    count, value = len(hits), sum(hits) / len(hits)
    if count < 2:
        return Estimate(value, None, None, count)
    square = _Z * _Z / count
    centre = (value + square / 2) / (1 + square)
    half = _Z / (1 + square) * math.sqrt(value * (1 - value) / count + square / (4 * count))
    error = math.sqrt(value * (1 - value) / count)
    return Estimate(value, error, (max(0.0, centre - half), min(1.0, centre + half)), count)


def transform(estimate: Estimate, function: Callable[[float], float]) -> Estimate:
    """Apply an increasing ``function`` to ``estimate``; the error follows from the interval's upper half."""
    value = function(estimate.value)
    if estimate.interval is None:
        return Estimate(value, None, None, estimate.samples)
    low, high = (function(end) for end in estimate.interval)
    return Estimate(value, (high - value) / quantile(estimate.samples - 1), (low, high), estimate.samples)


def bootstrap_mean(values: Sequence[float], seed: int = 0) -> Estimate:
    """The mean of one value per question with its percentile bootstrap interval, from 10,000 resamples.

    Efron and Tibshirani, An Introduction to the Bootstrap, section 13.3. The mean of a resample depends only on how
    often it contains each distinct value; these counts are multinomial, and sampled instead of the values.

    Args:
        values: At least one; differences of two results give the paired bootstrap.
        seed: Equal seeds give equal intervals.
    """
    import numpy as np

    count, value = len(values), math.fsum(values) / len(values)
    if count < 2:
        return Estimate(value, None, None, count)
    distinct, counts = np.unique(np.asarray(values, dtype=np.float64), return_counts=True)
    rng = np.random.default_rng(seed)
    means = np.concatenate(
        [
            rng.multinomial(count, counts / count, size=_AT_ONCE) @ distinct / count
            for _ in range(_RESAMPLES // _AT_ONCE)
        ]
    )
    low, high = np.quantile(means, (0.025, 0.975))
    return Estimate(value, float(means.std()), (float(low), float(high)), count)
