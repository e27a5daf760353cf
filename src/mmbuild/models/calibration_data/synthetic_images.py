"""Synthetic calibration images (seeded), used if the recipe names no data: coloured discs and bars on a gradient.

They exercise every layer with visual features, which text alone does not, but are unlike a real model's training
data; `plan --explain` and the action's progress say so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

_SHAPES = 4


def questions(
    size: tuple[int, int], prompts: Sequence[str], count: int, seed: int
) -> Iterator[tuple[Any, str]]:
    """``count`` images of ``size`` (height, width; pixels), with the prompts in turn."""
    import numpy as np

    rng = np.random.default_rng(seed)
    for number in range(count):
        yield _picture(rng, *size), prompts[number % len(prompts)]


def _picture(rng: Any, height: int, width: int) -> Any:
    import numpy as np
    from PIL import Image, ImageDraw

    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    corners = rng.uniform(0, 255, size=(3, 3))
    shades = np.clip(corners[0] + x[..., None] * corners[1] - y[..., None] * corners[2], 0, 255)
    picture = Image.fromarray(shades.astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    for number in range(int(rng.integers(1, _SHAPES + 1))):
        left, top = rng.uniform(0, 0.8) * width, rng.uniform(0, 0.8) * height
        box = (left, top, left + rng.uniform(0.1, 0.5) * width, top + rng.uniform(0.1, 0.5) * height)
        draw = pen.ellipse if number % 2 == 0 else pen.rectangle
        draw(box, fill=tuple(int(value) for value in rng.integers(0, 256, size=3)))
    return picture
