"""Share of right answers of the demo model's engines on 500 pictures of a seed that training never saw, half of
them showing combinations of shape, colour and count or place that were held out of training. Every picture is
asked every kind of question it allows. An answer is right when it is the whole expected text. Bounds: float16
at least 95 %, int8 within 1 point of it, int4 (per channel, uncalibrated) within 3 points."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import shapes_world as world  # noqa: E402 (lies in tools/)
from benchmarks.report import Row  # noqa: E402

if TYPE_CHECKING:
    from PIL import Image

    from mmbuild.backends.torch import Engine

SEED, PICTURES = 1_618_033, 500
NAMES: Mapping[str, str] = {"none": "float16", "int8": "int8", "int4": "int4"}
BOUNDS: Mapping[str, str] = {"none": "95 %", "int8": "-1 point", "int4": "-3 points"}


@dataclass(frozen=True, slots=True)
class Item:
    """One question of the exam about one picture."""

    picture: Image.Image
    question: world.Question


def items(seed: int = SEED, pictures: int = PICTURES) -> list[Item]:
    """All questions about ``pictures`` pictures, every other one of a held-out combination."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(pictures):
        scene = world.draw_scene(rng, held_out=number % 2 == 1)
        picture = world.draw_picture(scene, rng)
        found += [Item(picture, question) for question in world.questions(scene, rng)]
    return found


def examine(engine: Engine, exam: Sequence[Item]) -> dict[str, float]:
    """Percentage of right answers by kind of question, and of all of them under ``all``."""
    right: dict[str, list[bool]] = defaultdict(list)
    for batch in _batches(exam, engine.config.max_batch_size):
        answers = engine.generate([item.picture for item in batch], [item.question.text for item in batch])
        for item, answer in zip(batch, answers, strict=True):
            right[item.question.kind].append(answer.text == item.question.answer)
    every = [mark for marks in right.values() for mark in marks]
    return {kind: 100 * sum(marks) / len(marks) for kind, marks in [("all", every), *sorted(right.items())]}


def _batches(exam: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    # Questions of one kind together: their answers end at about the same step.
    ordered = sorted(exam, key=lambda item: item.question.kind)
    return (ordered[start : start + size] for start in range(0, len(ordered), size))


def measure() -> list[Row]:
    """One row for each precision of the float16 engine."""
    exam = items()
    rows, whole = [], 0.0
    for precision, bound in BOUNDS.items():
        shares = examine(build(precision), exam)
        every = shares.pop("all")
        whole = every if precision == "none" else whole
        kinds = ", ".join(f"{kind} {share:.1f}" for kind, share in shares.items())
        apart = "" if precision == "none" else f", {every - whole:+.1f} points"
        rows.append(Row(f"{NAMES[precision]}, {len(exam)} questions", f"{every:.2f} %{apart}", kinds, bound))
    return rows


def build(precision: str) -> Engine:
    """Apply the demo recipe in float16 with larger batches, and load its engine."""
    from mmbuild import api
    from mmbuild.backends.torch import Engine

    overrides = (
        "engine.dtype=float16",
        f"engine.quantization={precision}",
        "engine.max_batch_size=25",
        "verify=null",
        f"name=exam-{precision}",
    )
    recipes = api.load_recipe(ROOT / "recipes" / "demo" / "llava.yaml", overrides)
    plan = api.plan(recipes, store=ROOT / ".mmbuild" / "store", build_dir=ROOT / ".mmbuild" / "exam")
    api.apply(plan)
    return Engine.load(plan.builds[0].directory)
