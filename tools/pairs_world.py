"""Questions about two pictures of ``shapes_world``, made from a seed.

A pair is two scenes. In about half of the pairs both have the same colour, in about half the same shape, and
in about a quarter the same count, so that no answer is right by habit. Both scenes come from the held-out
combinations of ``shapes_world`` or neither does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

import shapes_world as world

Kind = Literal["more", "same colour", "same shape", "count of one", "colour of one", "shape of one"]
ORDINALS = ("first", "second")
QUESTIONS: dict[Kind, tuple[str, ...]] = {
    "more": ("which picture has more shapes ?", "which has more shapes ?", "which picture has more ?"),
    "same colour": ("do both have the same colour ?", "is the colour the same ?", "are the colours the same ?"),
    "same shape": ("do both have the same shape ?", "is the shape the same ?", "are the shapes the same ?"),
    "count of one": (
        "how many in the {} picture ?", "how many shapes in the {} picture ?",
        "how many shapes are in the {} picture ?",
    ),
    "colour of one": ("what colour is the {} picture ?", "which colour is in the {} picture ?"),
    "shape of one": ("which shape is in the {} picture ?", "what shape is in the {} picture ?"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Pair:
    """Two scenes, in the order in which they are shown."""

    first: world.Scene
    second: world.Scene

    def __iter__(self) -> Iterator[world.Scene]:
        return iter((self.first, self.second))


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a pair, with the one right answer."""

    kind: Kind
    text: str
    answer: str


def draw_pair(rng: np.random.Generator, *, held_out: bool) -> Pair:
    """A random pair, of held-out combinations or of others."""
    first = world.draw_scene(rng, held_out=held_out)
    same_colour, same_shape, same_count = rng.random(3) < (0.5, 0.5, 0.25)
    while True:
        second = world.draw_scene(rng, held_out=held_out)
        if (second.colour == first.colour) != same_colour or (second.shape == first.shape) != same_shape:
            continue
        if not same_count or len(second.cells) == len(first.cells) or _same_count_impossible(first, second):
            return Pair(first, second)


def questions(pair: Pair, rng: np.random.Generator) -> Iterator[Question]:
    """One question of each kind, its wording and the picture that it asks for picked at random.

    One in five lacks its mark at the end, as people type.
    """
    for kind, wordings in QUESTIONS.items():
        which = int(rng.integers(2))
        text = wordings[int(rng.integers(len(wordings)))].format(ORDINALS[which])
        bare = rng.random() < 0.2
        yield Question(kind, text[:-2] if bare else text, answer(pair, kind, which))


def answer(pair: Pair, kind: Kind, which: int) -> str:
    """The right answer; ``which`` is the picture that a question of one picture asks for, 0 or 1."""
    if kind == "more":
        counts = len(pair.first.cells), len(pair.second.cells)
        return "the same" if counts[0] == counts[1] else f"the {ORDINALS[int(counts[1] > counts[0])]}"
    if kind == "same colour":
        return "yes" if pair.first.colour == pair.second.colour else "no"
    if kind == "same shape":
        return "yes" if pair.first.shape == pair.second.shape else "no"
    answers = world.answers_of((pair.first, pair.second)[which])
    return answers[_OF_ONE[kind]]


def words() -> tuple[str, ...]:
    """Every word and mark of these questions and answers, sorted."""
    texts = [
        text.format(ordinal) for wordings in QUESTIONS.values() for text in wordings for ordinal in ORDINALS
    ]
    texts.append("yes no the same")
    return tuple(sorted({word for text in texts for word in text.split()}))


def _same_count_impossible(first: world.Scene, second: world.Scene) -> bool:
    # Equal shape, colour and count say the same of the held-out rule, but for single objects, whose place
    # decides; two different combinations can miss each other for ever. Then any count will do.
    many = len(first.cells)
    return (
        many > 1 and world.Scene(second.shape, second.colour, tuple(range(many))).held_out != first.held_out
    )


_OF_ONE: dict[Kind, world.Kind] = {
    "count of one": "count",
    "colour of one": "colour",
    "shape of one": "shape",
}
