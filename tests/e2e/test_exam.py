"""The demo model answers about pictures it has never seen, in every precision, through the real engines."""

import pytest

from benchmarks import exam
from support.engines.loaded import demo_engine

pytestmark = pytest.mark.slow

PICTURES = 500


@pytest.fixture(scope="module")
def items():
    """One question about each of 500 pictures: the kinds take turns."""
    found = {}
    for item in exam.items(pictures=PICTURES):
        found.setdefault(id(item.picture), []).append(item)
    return [own[number % len(own)] for number, own in enumerate(found.values())]


@pytest.fixture(scope="module")
def shares(items):
    return {precision: exam.examine(demo_engine("float16", precision), items) for precision in exam.NAMES}


def test_the_exam_asks_every_kind_about_500_pictures(items):
    assert len(items) == PICTURES
    kinds = [item.question.kind for item in items]
    assert min(kinds.count(kind) for kind in set(kinds)) >= 20
    assert len(set(kinds)) == 5


def test_the_float16_engine_is_right_at_least_95_times_in_100(shares):
    assert shares["none"]["all"] >= 95, shares


def test_int8_is_within_1_point_of_it(shares):
    assert abs(shares["int8"]["all"] - shares["none"]["all"]) <= 1, shares


def test_int4_is_within_3_points_of_it(shares):
    assert shares["none"]["all"] - shares["int4"]["all"] <= 3, shares


def test_no_kind_of_question_is_answered_badly(shares):
    worst = {precision: min(by_kind.values()) for precision, by_kind in shares.items()}
    assert min(worst.values()) >= 85, shares


def test_a_grey_picture_is_answered_badly(items):
    """What is right is read from the picture: without one, nothing much is."""
    from PIL import Image

    blank = [exam.Item(Image.new("RGB", (256, 256), (127, 127, 127)), item.question) for item in items[:100]]
    assert exam.examine(demo_engine("float16"), blank)["all"] <= 35
