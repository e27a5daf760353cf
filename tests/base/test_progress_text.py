"""Progress as text: the numbers, and what is left out of narrow lines."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbuild.base.pace import observe
from mmbuild.base.progress import BYTES, Amount
from mmbuild.base.progress_text import (
    amount_text,
    columns,
    end_that_fits,
    pace_text,
    progress_text,
    words_that_fit,
)
from support.examples import examples


def after(seconds, done, total, unit=BYTES):
    return observe(observe(None, Amount(0, total, unit), 0), Amount(done, total, unit), seconds)


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (Amount(3.1e9, 13.5e9, BYTES), "3.1/13.5 GB"),
        (Amount(0, 999, BYTES), "0/999 B"),
        (Amount(40e6, 1.5e9, BYTES), "0.0/1.5 GB"),
        (Amount(3.1e9, None, BYTES), "3.1 GB"),
        (Amount(12, 32, "layers"), "12/32 layers"),
        (Amount(1200, 6000, "questions"), "1,200/6,000 questions"),
        (Amount(12, None, "layers"), "12 layers"),
        (Amount(0.25, 1.0), "25%"),
    ],
)
def test_amounts(amount, text):
    assert amount_text(amount) == text


@pytest.mark.parametrize(
    ("pace", "texts"),
    [
        (after(10, 2.1e9, 4.2e9), ("210.0 MB/s", "10 s left")),
        (after(60, 5, 32, "layers"), ("12 s each", "5 min left")),
        (after(10, 52, 100, "samples"), ("5.2/s", "9 s left")),
        (after(10, 3e6, None), ("300.0 kB/s", "")),
        (after(10, 0.5, 1.0, ""), ("", "10 s left")),
        (after(10, 32, 32, "layers"), ("", "")),
        (after(10, 999_999, 1_000_000), ("100.0 kB/s", "1 s left")),
    ],
)
def test_rates_and_times_left(pace, texts):
    assert pace_text(pace, pace.at) == texts


PACE = after(15, 3.1e9, 13.5e9)
MESSAGE = "downloading model-00001-of-00002.safetensors"


@pytest.mark.parametrize(
    ("width", "text"),
    [
        (90, f"{MESSAGE} 3.1/13.5 GB, 206.7 MB/s, 50 s left"),
        (70, f"{MESSAGE} 3.1/13.5 GB, 50 s left"),
        (50, "downloading \u2026 3.1/13.5 GB, 50 s left"),
        (22, "3.1/13.5 GB, 50 s left"),
        (20, "3.1/13.5 GB"),
        (5, ""),
    ],
)
def test_the_least_important_part_is_left_out_first(width, text):
    assert progress_text(MESSAGE, PACE, 15, width) == text


@pytest.mark.parametrize(
    ("width", "text"),
    [
        (40, "loading the engine, then the reference"),
        (28, "loading the engine, then \u2026"),
        (9, "loading \u2026"),
        (4, ""),
    ],
)
def test_words_are_not_broken(width, text):
    assert words_that_fit("loading the engine, then the reference", width) == text


def test_a_long_label_keeps_its_end():
    assert end_that_fits("a-very-long-recipe/quantize", 12) == "\u2026pe/quantize"


@given(message=st.text(max_size=120), width=st.integers(0, 120), done=st.floats(0, 1e13))
@settings(max_examples=examples(200))
def test_no_text_is_wider_than_the_line(message, width, done):
    pace = observe(observe(None, Amount(0, 1e13, BYTES), 0), Amount(done, 1e13, BYTES), 9)
    assert columns(progress_text(message, pace, 10, width)) <= width
    assert columns(progress_text(message, None, 10, width)) <= width
    assert columns(end_that_fits(message, width)) <= width
