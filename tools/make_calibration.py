"""Calibration data for the demo models: pictures, questions and answers of the world that they were trained on.

    python tools/make_calibration.py examples/calibration

writes one JSONL file for each family whose demo model takes quantization, all about the same pictures: prompts are in
the form of each model. Drawn from a seed, and only combinations that training saw, so that examinations on held-out
ones stay what they are.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

import demo_worlds
import shapes_world

FAMILIES = ("llava", "vila", "blip2-opt")
SAMPLES, SEED = 32, 20


def write(out: Path, samples: int = SAMPLES, seed: int = SEED) -> None:
    """Write ``pictures/NN.png`` and ``<family>.jsonl`` below ``out``."""
    rng = np.random.default_rng(seed)
    (out / "pictures").mkdir(parents=True, exist_ok=True)
    lines: dict[str, list[str]] = {family: [] for family in FAMILIES}
    for number in range(samples):
        scene = shapes_world.draw_scene(rng, held_out=False)
        name = f"pictures/{number:02}.png"
        shapes_world.draw_picture(scene, rng).save(out / name, optimize=True)
        every = list(shapes_world.questions(scene, rng))
        question = every[number % len(every)]
        for family, written in lines.items():
            sample = {
                "image": name,
                "prompt": demo_worlds.prompt(family, question.text),
                "answer": question.answer,
            }
            written.append(json.dumps(sample))
    for family, written in lines.items():
        (out / f"{family}.jsonl").write_text("\n".join(written) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
