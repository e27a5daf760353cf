"""Questions to the demo model of any family, drawn from a seed, with the right answers.

    for asked in ask("vila", seed=7, count=4, held_out=True):
        ...  # asked.pictures, asked.prompt, asked.answer

What `make demo`, the tests and the benchmarks ask. The prompts are the forms that the models were trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from PIL import Image

import pages_world
import pairs_world
import shapes_world

Question = TypeVar("Question", shapes_world.Question, pairs_world.Question)

PROMPTS: dict[str, str] = {
    "llava": "{images} question: {question} answer:",
    "blip2-opt": "Question: {question} Answer:",
    "blip2-t5": "Question: {question} Answer:",
    "vila": "USER: {images} {question} ASSISTANT:",
}
"""The prompt of each family that takes one. ``{images}`` becomes one ``<image>`` for each picture; BLIP-2's
processor puts the picture in front by itself."""
MODELS: dict[str, str] = {
    "llava": "llava-shapes",
    "blip2-opt": "blip2-opt-shapes",
    "blip2-t5": "blip2-t5-shapes",
    "vila": "vila-shapes",
    "nougat": "nougat-pages",
}
"""Directory of each family's demo model in ``examples/models``."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One question to a model.

    Attributes:
        pictures: What is shown, RGB: one picture, or two for half of VILA's questions.
        question: The bare question; None where the family takes no text (nougat).
        answer: The one right answer.
        prompt: The question as the family's model wants it; None as ``question``.
    """

    pictures: tuple[Image.Image, ...]
    question: str | None
    answer: str
    prompt: str | None


def ask(family: str, seed: int, count: int, *, held_out: bool) -> list[Asked]:
    """``count`` questions about freshly drawn pictures, the same for the same seed.

    Args:
        family: A key of ``MODELS``.
        seed: Of pictures and questions.
        count: How many.
        held_out: Show only combinations (for nougat: words) that training never saw, or only others.

    Raises:
        KeyError: No such family.
    """
    draw, rng = _DRAWERS[family], np.random.default_rng(seed)
    return [draw(family, rng, number, held_out) for number in range(count)]


def prompt(family: str, question: str, pictures: int = 1) -> str:
    """A bare question in the family's form."""
    return PROMPTS[family].format(images=" ".join(["<image>"] * pictures), question=question)


def _shapes(family: str, rng: np.random.Generator, number: int, held_out: bool) -> Asked:  # noqa: ARG001
    scene = shapes_world.draw_scene(rng, held_out=held_out)
    picture = shapes_world.draw_picture(scene, rng)
    question = _pick(rng, shapes_world.questions(scene, rng))
    return Asked((picture,), question.text, question.answer, prompt(family, question.text))


def _one_or_two(family: str, rng: np.random.Generator, number: int, held_out: bool) -> Asked:
    if number % 2 == 0:
        return _shapes(family, rng, number, held_out)
    pair = pairs_world.draw_pair(rng, held_out=held_out)
    pictures = tuple(shapes_world.draw_picture(scene, rng) for scene in pair)
    question = _pick(rng, pairs_world.questions(pair, rng))
    return Asked(pictures, question.text, question.answer, prompt(family, question.text, pictures=2))


def _pages(family: str, rng: np.random.Generator, number: int, held_out: bool) -> Asked:  # noqa: ARG001
    page = pages_world.draw_page(rng, held_out=held_out)
    return Asked((pages_world.draw_picture(page, rng),), None, pages_world.markup(page), None)


def _pick(rng: np.random.Generator, questions: Iterator[Question]) -> Question:
    every = list(questions)
    return every[int(rng.integers(len(every)))]


_DRAWERS: dict[str, Callable[[str, np.random.Generator, int, bool], Asked]] = {
    "llava": _shapes,
    "blip2-opt": _shapes,
    "blip2-t5": _shapes,
    "vila": _one_or_two,
    "nougat": _pages,
}
