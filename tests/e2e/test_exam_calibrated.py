"""The demo model fitted on pictures answers about pictures it has never seen as well as before."""

from __future__ import annotations

import pytest

from benchmarks import exam
from support.engines.loaded import demo_engine

pytestmark = pytest.mark.slow

QUESTIONS, POINTS = 200, 3


def test_int4_awq_is_within_3_points_of_float16() -> None:
    found: dict[int, list[exam.Item]] = {}
    for item in exam.items(pictures=QUESTIONS):
        found.setdefault(id(item.picture), []).append(item)
    items = [own[number % len(own)] for number, own in enumerate(found.values())]
    shares = {name: exam.examine(demo_engine("float16", name), items)["all"] for name in ("none", "int4_awq")}
    assert shares["none"] >= 95
    assert shares["none"] - shares["int4_awq"] <= POINTS, shares
