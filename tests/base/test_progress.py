"""Amounts, their form in events, and the limit on how often they are reported."""

import pytest

from mmbuild.base.progress import BYTES, Amount, as_amount, as_data, from_data, limited


@pytest.mark.parametrize(
    ("amount", "fraction"),
    [(Amount(1, 4), 0.25), (Amount(9, 4), 1.0), (Amount(0, 0, BYTES), 1.0), (Amount(3, None, BYTES), None)],
)
def test_the_fraction_is_done_of_total(amount, fraction):
    assert amount.fraction == fraction


@pytest.mark.parametrize(
    "amount", [Amount(1, 4, "layers"), Amount(5, None, BYTES), Amount(7, 9, BYTES, 3), None]
)
def test_an_amount_survives_the_way_through_an_event(amount):
    data = as_data("writing", amount)
    assert data["message"] == "writing"
    assert from_data(data) == amount


def test_a_number_is_a_fraction():
    assert as_amount(0.25) == Amount(0.25, 1.0)
    assert as_data("", 0.25)["fraction"] == 0.25


def test_an_event_with_a_fraction_alone_is_read():
    assert from_data({"message": "", "fraction": 0.5}) == Amount(0.5, 1.0)


def passed(times):
    """Which of reports at ``times`` are passed on, of work with one unit more than there are reports."""
    now, seen = [0.0], []
    report = limited(lambda _, amount: seen.append(amount.done), lambda: now[0])
    for number, at in enumerate(times):
        now[0] = at
        report("", Amount(number, len(times), "tensors"))
    return seen


def test_many_reports_at_once_are_limited_to_five_a_second_after_the_first():
    seen = passed([number / 1000 for number in range(10_000)])
    assert seen[:20] == list(range(20))
    assert 60 <= len(seen) <= 71


def test_rare_reports_all_pass():
    assert passed([number / 4 for number in range(400)]) == list(range(400))


def test_a_complete_amount_always_passes():
    seen = []
    report = limited(lambda message, _: seen.append(message), lambda: 0.0)
    for number in range(100):
        report("part", Amount(number, 100))
    report("end", Amount(100, 100))
    assert seen[-1] == "end"
