"""Rate and time left, computed from amounts and the times at which they were reported."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbuild.base.pace import observe, rate, seconds_left
from mmbuild.base.progress import BYTES, Amount
from support.examples import examples


def paced(reports, unit=BYTES, total=1000, skipped=0):
    """The pace after ``reports``: (seconds, done)."""
    pace = None
    for at, done in reports:
        pace = observe(pace, Amount(done, total, unit, skipped), at)
    return pace


def test_steady_work_has_its_rate_and_the_time_for_the_rest():
    pace = paced([(second, 10 * second) for second in range(21)])
    assert rate(pace, 20) == pytest.approx(10)
    assert seconds_left(pace, 20) == pytest.approx(80)


def test_nothing_is_known_from_one_report_or_less_than_a_second():
    assert (rate(paced([(0, 0)]), 0), seconds_left(paced([(0, 0)]), 0)) == (None, None)
    short = paced([(0, 0), (0.4, 100)])
    assert (rate(short, 0.4), seconds_left(short, 0.4)) == (None, None)


def test_work_without_a_total_has_a_rate_and_no_time_left():
    pace = paced([(second, 10 * second) for second in range(5)], total=None)
    assert rate(pace, 4) == pytest.approx(10)
    assert seconds_left(pace, 4) is None


def test_finished_work_has_no_time_left():
    pace = paced([(0, 0), (5, 500), (10, 1000)])
    assert seconds_left(pace, 10) is None


def test_bytes_of_an_earlier_download_do_not_count_for_the_rate():
    pace = observe(None, Amount(0, 1000, BYTES), 0)
    pace = observe(pace, Amount(600, 1000, BYTES, skipped=600), 8)
    for second in range(1, 6):
        pace = observe(pace, Amount(600 + 10 * second, 1000, BYTES, skipped=600), 8 + second)
    assert rate(pace, 13) == pytest.approx(10)
    assert seconds_left(pace, 13) == pytest.approx(35)


def test_the_time_left_counts_down_between_rare_reports():
    pace = paced([(0, 0), (60, 1), (120, 2)], unit="layers", total=4)
    left = [seconds_left(pace, 120 + waited) for waited in (0, 20, 40)]
    assert left == pytest.approx([120, 100, 80])


def test_a_late_report_does_not_bring_the_time_left_to_zero():
    pace = paced([(0, 0), (10, 1), (20, 2)], unit="layers", total=3)
    late = [seconds_left(pace, 20 + waited) for waited in (9, 15, 25)]
    assert all(left >= 1 for left in late)
    assert late == sorted(late), "the longer it takes, the more there is left"


def test_stalled_work_has_no_time_left_and_a_falling_rate():
    pace = paced([(second, 10 * second) for second in range(11)])
    assert seconds_left(pace, 16) is None
    assert rate(pace, 60) < rate(pace, 20) < 10


def test_a_change_of_speed_moves_the_rate_slowly_and_for_good():
    slow = [(second, 10 * second) for second in range(31)]
    fast = [(30 + second, 300 + 100 * second) for second in range(1, 61)]
    pace = paced(slow + fast[:1], total=100_000)
    assert 10 < rate(pace, 31) < 20, "one fast second is not yet the rate"
    assert rate(paced(slow + fast, total=100_000), 90) == pytest.approx(100, rel=0.05)


@pytest.mark.parametrize(
    "amount", [Amount(5, 1000, BYTES), Amount(60, 500, BYTES), Amount(60, 1000, "layers")]
)
def test_other_work_starts_anew(amount):
    pace = observe(paced([(0, 0), (5, 50)]), amount, 6)
    assert (pace.work, pace.time, pace.amount) == (0, 0, amount)


def test_repeated_amounts_are_one_observation():
    once = paced([(0, 0), (10, 1)], unit="layers", total=8)
    repeated = paced([(0, 0), (2, 0), (10, 1), (11, 1), (12, 1)], unit="layers", total=8)
    assert seconds_left(repeated, 12) == pytest.approx(seconds_left(once, 12))


steps = st.lists(st.tuples(st.floats(0, 1e4), st.floats(0, 1e12)), min_size=1, max_size=30)


@given(steps=steps, waited=st.floats(0, 1e6), extra=st.floats(0, 1e12))
@settings(max_examples=examples(200))
def test_growing_amounts_have_times_that_are_finite_and_never_negative(steps, waited, extra):
    done = sum(work for _, work in steps)
    pace, at, so_far = None, 0.0, 0.0
    for seconds, work in steps:
        at, so_far = at + seconds, min(so_far + work, done)
        pace = observe(pace, Amount(so_far, done + extra, BYTES), at)
        for now in (at, at + waited):
            speed, left = rate(pace, now), seconds_left(pace, now)
            assert speed is None or (0 < speed < math.inf)
            assert left is None or (0 <= left < math.inf)
            assert left is None or left > 0 or pace.amount.complete


@given(speed=st.floats(1e-3, 1e9), gap=st.floats(0.05, 120), count=st.integers(60, 80))
@settings(max_examples=examples(100))
def test_steady_work_is_predicted_exactly_however_rarely_it_reports(speed, gap, count):
    total = 100 * speed * gap
    pace = None
    for number in range(count):
        pace = observe(pace, Amount(speed * gap * number, total, BYTES), gap * number)
    now = gap * (count - 1)
    assert rate(pace, now) == pytest.approx(speed)
    assert seconds_left(pace, now) == pytest.approx((101 - count) * gap)
