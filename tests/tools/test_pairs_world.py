import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pairs_world
import shapes_world
from pairs_world import Pair
from shapes_world import Scene

seeds = st.integers(0, 2**32 - 1)


@given(seeds, st.booleans())
def test_both_scenes_are_held_out_or_neither(seed: int, held_out: bool) -> None:
    pair = pairs_world.draw_pair(np.random.default_rng(seed), held_out=held_out)
    assert [scene.held_out for scene in pair] == [held_out, held_out]


@given(seeds)
def test_every_word_of_questions_and_answers_is_in_the_vocabulary(seed: int) -> None:
    rng = np.random.default_rng(seed)
    known = {*pairs_world.words(), *shapes_world.words()}
    requested = list(pairs_world.questions(pairs_world.draw_pair(rng, held_out=False), rng))
    assert [q.kind for q in requested] == list(pairs_world.QUESTIONS)
    assert all(set(f"{q.text} {q.answer}".split()) <= known for q in requested)


@pytest.mark.parametrize(
    ("kind", "which", "answer"),
    [
        ("more", 0, "the second"),
        ("same colour", 0, "yes"),
        ("same shape", 0, "no"),
        ("count of one", 0, "one"),
        ("count of one", 1, "two"),
        ("shape of one", 1, "square"),
        ("colour of one", 1, "red"),
    ],
)
def test_answers(kind: pairs_world.Kind, which: int, answer: str) -> None:
    red_circle, two_red_squares = Scene(0, 0, (4,)), Scene(1, 0, (0, 8))
    assert pairs_world.answer(Pair(red_circle, two_red_squares), kind, which) == answer


def test_comparisons_have_both_directions_and_equality() -> None:
    one, three = Scene(0, 0, (4,)), Scene(0, 0, (1, 2, 3))
    lines = [
        pairs_world.answer(Pair(*scenes), "more", 0) for scenes in [(one, three), (three, one), (one, one)]
    ]
    assert lines == ["the second", "the first", "the same"]


def test_yes_and_no_are_about_as_frequent() -> None:
    rng = np.random.default_rng(5)
    pairs = [pairs_world.draw_pair(rng, held_out=bool(i % 2)) for i in range(400)]
    for kind in ("same colour", "same shape"):
        assert 0.4 < np.mean([pairs_world.answer(pair, kind, 0) == "yes" for pair in pairs]) < 0.6
