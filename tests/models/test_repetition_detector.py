"""The repetition detector against an independent, quadratic implementation of the criterion."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest

from mmbuild.models.repetition_detector import Repetition


def lively(rng: random.Random, steps: int) -> list[float]:
    """Largest logits of text without repetition: sometimes confident, sometimes not."""
    return [rng.choice([4.0, 12.0, 25.0]) + rng.gauss(0, 3) for _ in range(steps)]


def circling(rng: random.Random, steps: int) -> list[float]:
    """Largest logits of a phrase that comes over and over again."""
    phrase = [20 + rng.gauss(0, 2) for _ in range(6)]
    return [phrase[i % 6] + rng.gauss(0, 0.02) for i in range(steps)]


def stops_at(largest: list[float]) -> int | None:
    watch = Repetition().watch()
    return next((step for step, value in enumerate(largest) if watch(value)), None)


def restated_stop(largest: list[float]) -> int | None:
    """Spread of the last 15 by sample variance over their number; its variance over the last 200; twice small."""
    spreads: list[float] = []
    small_before = False
    for step in range(len(largest)):
        last = largest[max(0, step - 14) : step + 1]
        mean = sum(last) / len(last)
        sample = sum((x - mean) ** 2 for x in last) / (len(last) - 1) if len(last) > 1 else math.nan
        spreads.append(sample / len(last))
        if step + 1 < 200:
            continue
        recent = spreads[-200:]
        middle = sum(recent) / 200
        small = sum((x - middle) ** 2 for x in recent) / 199 < 0.015  # a NaN among them compares false
        if small and small_before and step + 1 <= 4095:
            return step
        small_before = small
    return None


@pytest.mark.parametrize("seed", range(4))
def test_decoding_stops_where_the_restated_criterion_stops(seed: int) -> None:
    rng = random.Random(seed)
    largest = lively(rng, rng.randint(0, 150)) + circling(rng, 420)
    found = stops_at(largest)
    assert found is not None
    assert found == restated_stop(largest)


@pytest.mark.parametrize("seed", range(3))
def test_text_without_repetition_is_never_stopped(seed: int) -> None:
    assert stops_at(lively(random.Random(seed), 600)) is None


def test_nothing_is_stopped_before_the_window_is_full_of_spreads() -> None:
    # The first value alone has no spread, and is among the 200 until one more step.
    assert stops_at([1.0] * 400) == 201


def restated_kept(largest: list[float]) -> int:
    """How many tokens Nougat keeps of an answer that ran into its limit; its lists, element by element."""
    count = len(largest)
    spreads = [np.var(largest[i : i + 15]) / 15 for i in range(count - 15)]
    backwards = spreads[::-1]
    tails = [np.var(backwards[: i + 10]) for i in range(len(backwards) - 10)][::-1]
    small = [i for i, value in enumerate(tails) if value < 0.045]
    if len(small) < 2 or any(after - before > 1 for before, after in itertools.pairwise(small)):
        return count
    cut = int(min(max(small[0], 1) * 1.08 + 120, 4095))  # counts the start token
    if cut / count > 0.9:
        return count
    return 0 if small[0] < 30 else cut - 1


@pytest.mark.parametrize("seed", range(12))
def test_what_repeats_is_cut_as_restated(seed: int) -> None:
    rng = random.Random(seed)
    largest = lively(rng, rng.choice([0, 20, 60, 120, 300])) + circling(rng, rng.choice([5, 100, 400, 900]))
    assert Repetition().kept_length(largest, ended=False) == restated_kept(largest)


def test_all_three_outcomes_are_among_those_compared() -> None:
    rng = random.Random(0)
    page, circle = lively(rng, 300), circling(rng, 900)
    assert Repetition().kept_length(page, ended=False) == 300
    assert 300 < Repetition().kept_length(page + circle, ended=False) < 500
    assert Repetition().kept_length(circle, ended=False) == 0


def test_an_answer_that_ended_by_itself_is_kept_whole() -> None:
    largest = circling(random.Random(1), 700)
    assert Repetition().kept_length(largest, ended=True) == 700


@pytest.mark.parametrize("steps", [0, 1, 15, 24, 25, 26])
def test_short_answers_are_kept(steps: int) -> None:
    assert Repetition().kept_length([1.0] * steps, ended=False) == steps
