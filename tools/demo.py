"""Build the demo engine of a family, or of all, then ask it about pictures that nobody has seen before.

    python tools/demo.py --family llava
    python tools/demo.py --family all

What `make demo` runs: applies ``recipes/demo/<family>-int4.yaml`` (``<family>.yaml`` where the family has no int4)
with the command line, draws pictures at that moment (the seed comes from the clock and is printed; ``--seed``
repeats one), and asks the engine through `mmbuild run`. Exits with 1 where more than one answer of a family is
wrong: no model here is right always.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from demo_worlds import MODELS, Asked, ask

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / ".mmbuild" / "demo"
RECIPES = ROOT / "recipes" / "demo"
MMBUILD = Path(sys.executable).with_name("mmbuild")
QUESTIONS = 4


@dataclass(frozen=True, slots=True)
class Shown:
    """A question, and its pictures on disk."""

    asked: Asked
    pictures: tuple[Path, ...]


def recipe_of(family: str) -> Path:
    """The demo recipe that is built: with int4 weights where the family has them."""
    quantized = RECIPES / f"{family}-int4.yaml"
    return quantized if quantized.is_file() else RECIPES / f"{family}.yaml"


def draw(family: str, seed: int) -> list[Shown]:
    """Questions about pictures drawn now, half of them of combinations or words that training never saw."""
    half = QUESTIONS // 2
    asked = [*ask(family, seed, half, held_out=False), *ask(family, seed + 1, half, held_out=True)]
    place = PICTURES / family
    place.mkdir(parents=True, exist_ok=True)
    shown = []
    for number, item in enumerate(asked, start=1):
        paths = tuple(place / f"picture-{number}{letter}.png" for letter in "ab"[: len(item.pictures)])
        for picture, path in zip(item.pictures, paths, strict=True):
            picture.save(path)
        shown.append(Shown(item, paths))
    return shown


def answers(build: Path, shown: Sequence[Shown]) -> list[str]:
    """The engine's answers, through `mmbuild run`: questions about one picture in one call, others one by one."""
    found: dict[int, str] = {}
    single = [number for number, item in enumerate(shown) if len(item.pictures) == 1]
    for numbers in [single, *([number] for number in range(len(shown)) if number not in single)]:
        told = _run(build, [shown[number] for number in numbers])
        found |= {number: answer["text"] for number, answer in zip(numbers, told, strict=True)}
    return [found[number] for number in range(len(shown))]


def _run(build: Path, shown: Sequence[Shown]) -> list[dict[str, str]]:
    command = [str(MMBUILD), "run", str(build), "--json"]
    for item in shown:
        command += [part for path in item.pictures for part in ("--image", str(path))]
        command += [] if item.asked.prompt is None else ["--prompt", item.asked.prompt]
    command += ["--together"] if len(shown[0].pictures) > 1 else []
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    told: list[dict[str, str]] = json.loads(done.stdout)["answers"]
    return told


def show_actions(build: Path) -> None:
    """Time of every action when it was built, and where the engine lies."""
    manifest = json.loads((build / "manifest.json").read_text())
    print("\nactions, seconds when they were built:")
    for action in manifest["actions"]:
        print(f"  {action['step']:<13}{action['seconds']:8.1f}  {action['action_key'][:12]}")
    print(f"engine: {build.relative_to(ROOT)}; `.venv/bin/mmbuild serve {build.relative_to(ROOT)}` serves it")


def show_answers(shown: Sequence[Shown], told: Sequence[str]) -> int:
    """Question, answer and truth side by side; how many are wrong."""
    wrong = 0
    for item, answer in zip(shown, told, strict=True):
        right = answer.strip() == item.asked.answer.strip()
        wrong += not right
        names = ", ".join(str(path.relative_to(ROOT)) for path in item.pictures)
        print(f"\n{names}: {item.asked.question or 'the page'}")
        print(f"  engine: {_indented(answer)}")
        print(f"  truth:  {_indented(item.asked.answer)}  ({'right' if right else 'WRONG'})")
    return wrong


def _indented(text: str) -> str:
    """Text of several lines below its label."""
    return text.strip().replace("\n", "\n          ")


def demo(family: str, seed: int) -> int:
    """Build and ask one family; how many answers were wrong."""
    recipe = recipe_of(family)
    started = time.monotonic()
    print(f"\n== {family}: mmbuild apply {recipe.relative_to(ROOT)}", flush=True)
    subprocess.run([str(MMBUILD), "apply", str(recipe.relative_to(ROOT))], cwd=ROOT, check=True)
    applied = time.monotonic() - started
    build = ROOT / "build" / yaml.safe_load(recipe.read_text())["name"]
    show_actions(build)
    print(f"\npictures drawn just now (--seed {seed}), half of them of what training never saw:")
    shown = draw(family, seed)
    wrong = show_answers(shown, answers(build, shown))
    print(f"\napply took {applied:.1f} s, all {time.monotonic() - started:.1f} s")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", default="llava", choices=[*MODELS, "all"])
    parser.add_argument("--seed", type=int, default=None, help="of the pictures; default: the clock")
    args = parser.parse_args()
    seed = time.time_ns() % 1_000_000_007 if args.seed is None else args.seed
    families = list(MODELS) if args.family == "all" else [args.family]
    try:
        wrong = {family: demo(family, seed) for family in families}
    except subprocess.CalledProcessError as error:
        return error.returncode
    print(
        "\n"
        + "\n".join(
            f"{family:<10}{QUESTIONS - count} of {QUESTIONS} right" for family, count in wrong.items()
        )
    )
    return 1 if any(count > 1 for count in wrong.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
