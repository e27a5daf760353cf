"""Means and intervals, against numpy and against many drawn samples."""

import numpy as np
import pytest

from mmbuild.evaluation import statistics


def test_a_mean_has_numpy_s_value_and_standard_error():
    values = np.random.default_rng(1).normal(3, 2, 17)
    found = statistics.mean(values.tolist())
    assert found.value == pytest.approx(values.mean())
    assert found.error == pytest.approx(values.std(ddof=1) / np.sqrt(17))
    assert found.samples == 17


def test_a_ratio_counts_long_answers_for_more():
    assert statistics.ratio([1.0, 90.0], [1.0, 9.0]).value == pytest.approx(9.1)


@pytest.mark.parametrize("freedom", [1, 2, 5, 9, 30])
def test_quantiles_hold_95_percent_of_student_s_distribution(freedom):
    x = np.linspace(0, statistics.quantile(freedom), 200_001)
    density = (1 + x * x / freedom) ** (-(freedom + 1) / 2)
    whole = np.linspace(0, 1, 400_001)[:-1]  # x = u / (1 - u) takes [0, 1) to all positive numbers
    far = whole / (1 - whole)
    every = (1 + far * far / freedom) ** (-(freedom + 1) / 2) / (1 - whole) ** 2
    assert np.trapezoid(density, x) / np.trapezoid(every, whole) == pytest.approx(0.95, abs=2e-4)


def test_intervals_of_a_mean_hold_the_truth_19_times_of_20():
    rng = np.random.default_rng(3)
    drawn = [statistics.mean(rng.normal(1, 1, 6).tolist()).interval for _ in range(2000)]
    assert 0.93 < np.mean([low <= 1 <= high for low, high in drawn]) < 0.97


@pytest.mark.parametrize("truth", [0.5, 0.9])
def test_intervals_of_a_share_hold_the_truth_19_times_of_20(truth):
    rng = np.random.default_rng(4)
    drawn = [statistics.share((rng.random(40) < truth).tolist()).interval for _ in range(2000)]
    assert 0.92 < np.mean([low <= truth <= high for low, high in drawn]) < 0.98


def test_a_share_of_all_is_not_certain():
    low, high = statistics.share([True] * 9).interval
    assert high == 1.0
    assert low == pytest.approx(0.7009, abs=1e-4)  # 9 / (9 + 1.96^2)


@pytest.mark.parametrize("estimate", [statistics.mean([2.0]), statistics.share([True])])
def test_one_sample_has_no_interval(estimate):
    assert (estimate.error, estimate.interval, estimate.samples) == (None, None, 1)


@pytest.mark.parametrize("kind", ["binary", "fractions", "differences"])
def test_a_bootstrap_interval_is_that_of_resampled_values(kind):
    rng = np.random.default_rng(5)
    values = {
        "binary": (rng.random(40) < 0.8).astype(float),
        "fractions": rng.integers(0, 7, 40) / 6,
        "differences": rng.integers(-1, 2, 40).astype(float),
    }[kind]
    found = statistics.bootstrap_mean(values.tolist())
    means = values[rng.integers(0, 40, (20_000, 40))].mean(axis=1)
    assert found.value == pytest.approx(values.mean())
    assert found.error == pytest.approx(means.std(), rel=0.03)
    assert found.interval == pytest.approx(np.quantile(means, (0.025, 0.975)).tolist(), abs=0.026)


def test_a_bootstrap_is_repeatable_and_depends_on_its_seed():
    values = np.random.default_rng(1).random(30).tolist()
    assert statistics.bootstrap_mean(values) == statistics.bootstrap_mean(values)
    assert statistics.bootstrap_mean(values).interval != statistics.bootstrap_mean(values, seed=1).interval


def test_bootstrap_intervals_cover_the_true_mean_about_as_often_as_they_say():
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(300):
        low, high = statistics.bootstrap_mean((rng.random(100) < 0.7).astype(float).tolist()).interval
        covered += low <= 0.7 <= high
    assert 0.90 <= covered / 300 <= 0.985


def test_a_bootstrap_of_one_value_has_no_interval():
    assert statistics.bootstrap_mean([0.5]) == statistics.Estimate(0.5, None, None, 1)
