"""Build the demo engine of a family, then ask it about two pictures that nobody has seen before.

    python tools/demo.py --family llava

What `make demo` runs: applies ``recipes/demo/<family>-int4.yaml`` with the command line, draws two pictures
at that moment (the seed comes from the clock and is printed; ``--seed`` repeats one), and asks the engine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

import shapes_world as world

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / ".mmbuild" / "demo"
MMBUILD = Path(sys.executable).with_name("mmbuild")


@dataclass(frozen=True, slots=True)
class Asked:
    """A question about a picture on disk."""

    picture: Path
    question: world.Question


def draw(seed: int) -> list[Asked]:
    """Two pictures, each with a question of a kind picked at random and one that asks for a sentence."""
    rng = np.random.default_rng(seed)
    PICTURES.mkdir(parents=True, exist_ok=True)
    asked = []
    for number in (1, 2):
        scene = world.draw_scene(rng, held_out=number == 2)
        path = PICTURES / f"picture-{number}.png"
        world.draw_picture(scene, rng).save(path)
        *others, sentence = world.questions(scene, rng)
        asked += [Asked(path, others[int(rng.integers(len(others)))]), Asked(path, sentence)]
    return asked


def ask(build: Path, asked: list[Asked]) -> list[str]:
    """The engine's answers, through `mmbuild run`."""
    command = [str(MMBUILD), "run", str(build)]
    for item in asked:
        command += ["--image", str(item.picture), "--prompt", item.question.text]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.splitlines()


def show_actions(build: Path) -> None:
    """Time of every action when it was built, and where the engine lies."""
    manifest = json.loads((build / "manifest.json").read_text())
    print("\nactions, seconds when they were built:")
    for action in manifest["actions"]:
        print(f"  {action['step']:<13}{action['seconds']:8.1f}  {action['action_key'][:12]}")
    print(f"engine: {build.relative_to(ROOT)}")


def show_answers(asked: list[Asked], answers: list[str]) -> None:
    """Question, answer and truth side by side."""
    for item, answer in zip(asked, answers, strict=True):
        mark = "right" if answer.strip() == item.question.answer else "WRONG"
        print(f"\n{item.picture.relative_to(ROOT)}: {item.question.text}")
        print(f"  engine: {answer.strip()}")
        print(f"  truth:  {item.question.answer}  ({mark})")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", default="llava")
    parser.add_argument("--seed", type=int, default=None, help="of the pictures; default: the clock")
    args = parser.parse_args()
    recipe = ROOT / "recipes" / "demo" / f"{args.family}-int4.yaml"
    if not recipe.is_file():
        known = sorted(path.name.removesuffix("-int4.yaml") for path in recipe.parent.glob("*-int4.yaml"))
        parser.error(f"no demo recipe for family {args.family}; there are: {', '.join(known)}")
    started = time.monotonic()
    try:
        subprocess.run([str(MMBUILD), "apply", str(recipe.relative_to(ROOT))], cwd=ROOT, check=True)
        applied = time.monotonic() - started
        build = ROOT / "build" / yaml.safe_load(recipe.read_text())["name"]
        show_actions(build)
        seed = time.time_ns() % 1_000_000_007 if args.seed is None else args.seed
        print(f"\ntwo pictures drawn just now (--seed {seed}), the second of a combination never trained on:")
        asked = draw(seed)
        show_answers(asked, ask(build, asked))
    except subprocess.CalledProcessError as error:
        return error.returncode
    print(f"\napply took {applied:.1f} s, all {time.monotonic() - started:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
