"""A small world of pictures, questions and answers, made from a seed.

A scene is one to five objects of one shape and one colour in different cells of a 3 x 3 grid. Size, place in
the cell, colour and background vary. Five kinds of question are asked about a scene; ``where`` only of a
single object. Some combinations of shape, colour and count (of shape, colour and place for a single object)
are held out: :func:`draw_scene` never makes them unless it is asked to, so a model can be examined on what
it never saw.

Needs numpy and Pillow only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

CANVAS = 256
SHAPES = ("circle", "square", "triangle", "star", "cross")
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "green": (40, 160, 60),
    "blue": (45, 85, 215),
    "yellow": (240, 215, 40),
    "purple": (140, 50, 170),
    "orange": (245, 130, 30),
    "cyan": (50, 205, 215),
}
NUMBERS = ("one", "two", "three", "four", "five")
PLACES = (
    "top left", "top", "top right",
    "left", "center", "right",
    "bottom left", "bottom", "bottom right",
)  # fmt: skip
COUNT_WEIGHTS = (0.30, 0.175, 0.175, 0.175, 0.175)

Kind = Literal["shape", "colour", "count", "where", "describe"]
QUESTIONS: dict[Kind, tuple[str, ...]] = {
    "shape": ("which shape ?", "what shape is it ?", "what shape is this ?", "which shape is shown ?"),
    "colour": (
        "what colour ?", "which colour is it ?", "what colour is the shape ?", "what colour are the shapes ?",
        "what color is it ?", "what color are they ?",
    ),
    "count": ("how many ?", "how many shapes ?", "how many are there ?", "how many shapes are there ?"),
    "where": ("where ?", "where is it ?", "where is the shape ?"),
    "describe": (
        "describe the picture .", "describe the image .", "describe it .", "what is in the picture ?",
        "what is shown ?", "what is this ?",
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Scene:
    """What a picture shows.

    Attributes:
        shape: Index into ``SHAPES``.
        colour: Index into ``COLOURS``.
        cells: Cells of the grid that hold an object, 0 (top left) to 8 (bottom right), sorted.
    """

    shape: int
    colour: int
    cells: tuple[int, ...]

    @property
    def held_out(self) -> bool:
        """Whether the combination is kept out of training: about one in nine."""
        many = len(self.cells)
        last = self.cells[0] if many == 1 else 10 + many
        return (2 * self.shape + 3 * self.colour + last) % 9 == 0


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a scene, with the one right answer."""

    kind: Kind
    text: str
    answer: str


def draw_scene(rng: np.random.Generator, *, held_out: bool) -> Scene:
    """A random scene, from the held-out combinations or from the others."""
    while True:
        count = int(rng.choice(5, p=COUNT_WEIGHTS)) + 1
        cells = tuple(sorted(int(cell) for cell in rng.choice(9, size=count, replace=False)))
        scene = Scene(int(rng.integers(len(SHAPES))), int(rng.integers(len(COLOURS))), cells)
        if scene.held_out == held_out:
            return scene


def draw_picture(scene: Scene, rng: np.random.Generator) -> Image.Image:
    """A picture of the scene, RGB, ``CANVAS`` x ``CANVAS`` pixels."""
    image = Image.new("RGB", (CANVAS, CANVAS), _background(rng))
    pen = ImageDraw.Draw(image)
    base = np.array(tuple(COLOURS.values())[scene.colour])
    cell = CANVAS / 3
    for index in scene.cells:
        radius = rng.uniform(0.28, 0.40) * cell
        slack = cell / 2 - radius
        x = (index % 3 + 0.5) * cell + rng.uniform(-slack, slack)
        y = (index // 3 + 0.5) * cell + rng.uniform(-slack, slack)
        colour = tuple(int(v) for v in np.clip(base + rng.integers(-14, 15, size=3), 0, 255))
        _draw_object(pen, SHAPES[scene.shape], (x, y, radius), colour)
    return image


def questions(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    """One question of each kind that the scene allows, in a wording picked at random.

    One in five lacks its mark at the end, as people type.
    """
    answers = answers_of(scene)
    for kind, wordings in QUESTIONS.items():
        if kind in answers:
            text = wordings[int(rng.integers(len(wordings)))]
            bare = rng.random() < 0.2
            yield Question(kind, text[:-2] if bare else text, answers[kind])


def answers_of(scene: Scene) -> dict[Kind, str]:
    """The right answer to each kind of question; no ``where`` for several objects."""
    shape, colour = SHAPES[scene.shape], tuple(COLOURS)[scene.colour]
    number = NUMBERS[len(scene.cells) - 1]
    answers: dict[Kind, str] = {"shape": shape, "colour": colour, "count": number}
    if len(scene.cells) == 1:
        place = PLACES[scene.cells[0]]
        answers["where"] = place
        answers["describe"] = f"there is one {colour} {shape} at the {place} ."
    else:
        answers["describe"] = f"there are {number} {colour} {plural(shape)} ."
    return answers


def plural(shape: str) -> str:
    """The plural of a shape's name."""
    return shape + ("es" if shape.endswith("ss") else "s")


def words() -> tuple[str, ...]:
    """Every word and mark of the world's questions and answers, sorted."""
    texts = [text for wordings in QUESTIONS.values() for text in wordings]
    texts += [*SHAPES, *map(plural, SHAPES), *COLOURS, *NUMBERS, *PLACES]
    texts.append("question : answer there is are at the .")
    return tuple(sorted({word for text in texts for word in text.split()}))


def _background(rng: np.random.Generator) -> tuple[int, int, int]:
    low, high = ((10, 60), (195, 250))[int(rng.integers(2))]
    grey = rng.integers(low, high)
    r, g, b = (int(v) for v in np.clip(grey + rng.integers(-10, 11, size=3), 0, 255))
    return r, g, b


def _draw_object(
    pen: ImageDraw.ImageDraw, shape: str, place: tuple[float, float, float], colour: tuple[int, ...]
) -> None:
    x, y, radius = place
    if shape == "circle":
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
        return
    pen.polygon([(x + radius * dx, y + radius * dy) for dx, dy in _OUTLINES[shape]], fill=colour)


def _star() -> tuple[tuple[float, float], ...]:
    angles = np.pi * (np.arange(10) / 5 - 0.5)
    radii = np.where(np.arange(10) % 2 == 0, 1.0, 0.42)
    return tuple((float(r * np.cos(a)), float(r * np.sin(a))) for a, r in zip(angles, radii, strict=True))


_ARM = 0.36
_OUTLINES: dict[str, tuple[tuple[float, float], ...]] = {
    "square": ((-0.86, -0.86), (0.86, -0.86), (0.86, 0.86), (-0.86, 0.86)),
    "triangle": ((0.0, -1.0), (0.95, 0.8), (-0.95, 0.8)),
    "star": _star(),
    "cross": (
        (-_ARM, -1), (_ARM, -1), (_ARM, -_ARM), (1, -_ARM), (1, _ARM), (_ARM, _ARM),
        (_ARM, 1), (-_ARM, 1), (-_ARM, _ARM), (-1, _ARM), (-1, -_ARM), (-_ARM, -_ARM),
    ),
}  # fmt: skip
