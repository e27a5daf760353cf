"""The demo model fitted on pictures answers about pictures it has never seen as well as before."""

from __future__ import annotations

import pytest
from benchmarks import exam
from engines import demo_engine

QUESTIONS = 200


@pytest.mark.parametrize(("algorithm", "points"), [("int4_awq", 3)])
def test_it_is_within_these_points_of_float16(algorithm: str, points: int) -> None:
    found = {}
    for item in exam.items(pictures=QUESTIONS):
        found.setdefault(id(item.picture), []).append(item)
    items = [own[number % len(own)] for number, own in enumerate(found.values())]
    shares = {
        precision: exam.examine(demo_engine("float16", precision), items)["all"]
        for precision in ("none", algorithm)
    }
    assert shares["none"] >= 95
    assert shares["none"] - shares[algorithm] <= points, shares
