"""Scores against a second implementation, written from the definitions in the paper."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbuild.evaluation.answers.scores import SCORES, normalized, scores_of
from support.examples import examples

PUNCTUATION = set("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
WORDS = [
    "a",
    "an",
    "the",
    "The",
    "cat",
    "Cat!",
    "cats",
    "athens",
    "don't",
    "3",
    "3.5",
    "é",
    "-",
    "  ",
    "\t",
    "a-b",
]
texts = st.one_of(st.text(max_size=30), st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join))


def reference_words(text: str) -> list[str]:
    """Words of a text in lower case, without punctuation; articles are whole runs of word characters."""
    kept = "".join(sign for sign in text.lower() if sign not in PUNCTUATION)
    words, run = "", ""
    for sign in f"{kept}\n":
        if sign.isalnum() or sign == "_":
            run += sign
            continue
        words += (" " if run in {"a", "an", "the"} else run) + sign
        run = ""
    return words.split()


def reference_f1(answer: str, accepted: str) -> float:
    found, expected = reference_words(answer), reference_words(accepted)
    left, overlap = list(expected), 0
    for word in found:
        if word in left:
            left.remove(word)
            overlap += 1
    if not found or not expected:
        return 1.0 if found == expected else 0.0
    if overlap == 0:
        return 0.0
    precision, recall = overlap / len(found), overlap / len(expected)
    return 2 * precision * recall / (precision + recall)


@given(texts, st.lists(texts, min_size=1, max_size=3))
@settings(max_examples=examples(300))
def test_scores_are_those_of_the_reference(answer: str, accepted: list[str]) -> None:
    found = scores_of(answer, accepted)
    assert found["exact"] == float(any(answer.strip() == one.strip() for one in accepted))
    assert found["normalized"] == float(
        any(reference_words(answer) == reference_words(one) for one in accepted)
    )
    assert found["f1"] == pytest.approx(max(reference_f1(answer, one) for one in accepted))


@given(texts, texts)
def test_scores_are_ordered_and_symmetric(answer: str, accepted: str) -> None:
    found = scores_of(answer, [accepted])
    assert 0 <= found["exact"] <= found["normalized"] <= found["f1"] <= 1
    assert found == scores_of(accepted, [answer])


@pytest.mark.parametrize(
    ("answer", "accepted", "expected"),
    [
        ("two", ["two"], (1, 1, 1)),
        (" two\n", ["two"], (1, 1, 1)),
        ("The Two.", ["two"], (0, 1, 1)),
        ("a two-tone   CAT", ["two-tone cat"], (0, 1, 1)),
        ("theatre", ["atre"], (0, 0, 0)),
        ("red red stars", ["red star"], (0, 0, 0.4)),
        ("a green circle", ["there is a green circle", "nothing"], (0, 0, 2 / 3)),
        ("", [""], (1, 1, 1)),
        ("the", [""], (0, 1, 1)),
        ("", ["two"], (0, 0, 0)),
        ("3", ["three", "3"], (1, 1, 1)),
    ],
)
def test_examples(answer: str, accepted: list[str], expected: tuple[float, ...]) -> None:
    assert tuple(scores_of(answer, accepted).values()) == pytest.approx(expected)
    assert tuple(SCORES) == ("exact", "normalized", "f1")


def test_normalization_keeps_words_with_punctuation_inside_together() -> None:
    assert normalized("The  dog's a-b, an X") == "dogs ab x"
