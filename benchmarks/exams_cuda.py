"""Examinations of the demo models on one GPU: every family and precision, questions alone and in batches of 8.

    python -m benchmarks.exams_cuda --dir DIR [--questions 64] [--calibrated]

Builds the demo recipes for CUDA side by side and asks each engine about pictures that training never saw. An answer
is right when it is the whole expected text. `--calibrated` adds AWQ, SmoothQuant and FP8 of LLaVA, which need Model
Optimizer. Exits with 1 if a share of right answers is below its bound.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import demo_worlds  # noqa: E402 (lies in tools/)

if TYPE_CHECKING:
    from mmbuild.backends.torch import Engine

SEED, BATCH = 31_415, 8
BOUND = 95.0
PLAIN = {
    "llava": ("none", "int8", "int4"),
    "vila": ("none", "int8", "int4"),
    "blip2-opt": ("none", "int8", "int4"),
    "blip2-t5": ("none",),
    "nougat": ("none",),
}
CALIBRATED = ("int4_awq", "smoothquant", "fp8")
_DATA = "engine.quantization={{algorithm: {}, calibration: {{data: {}}}}}"


def variants(*, calibrated: bool) -> Iterator[tuple[str, str, str]]:
    """Family, dtype, precision."""
    for family, precisions in PLAIN.items():
        # float16 does not hold the activations of T5.
        half = "bfloat16" if family == "blip2-t5" else "float16"
        for precision in precisions:
            yield family, half, precision
    yield "llava", "float32", "int4"
    yield "llava", "bfloat16", "int4"
    if calibrated:
        for precision in CALIBRATED:
            yield "llava", "float16", precision


def recipes(family: str, dtype: str, precision: str, device: str) -> Sequence[Any]:
    """The demo recipe of a family with another dtype and precision."""
    from mmbuild import api

    data = ROOT / "examples" / "calibration" / "llava.jsonl"
    quantization = (
        _DATA.format(precision, data) if precision in CALIBRATED else f"engine.quantization={precision}"
    )
    overrides = (
        f"name={name(family, dtype, precision)}",
        f"engine.dtype={dtype}",
        f"engine.max_batch_size={BATCH}",
        f"target.device={device}",
        "verify=null",
        quantization,
    )
    return api.load_recipe(ROOT / "recipes" / "demo" / f"{family}.yaml", overrides)


def name(family: str, dtype: str, precision: str) -> str:
    """Of a variant's build."""
    return f"{family}-{dtype}-{precision.replace('_', '-')}"


def build(room: Path, wanted: Sequence[tuple[str, str, str]], device: str) -> dict[str, Path]:
    """Engine directories by name."""
    from mmbuild import api

    loaded = [recipe for variant in wanted for recipe in recipes(*variant, device)]
    plan = api.plan(loaded, store=room / "store", build_dir=room / "build")
    begin = time.perf_counter()
    api.apply(plan, keep_going=True)
    print(f"{len(plan.builds)} engines built in {time.perf_counter() - begin:.0f} s", flush=True)
    return {Path(built.directory).name: Path(built.directory) for built in plan.builds}


def examine(engine: Engine, questions: Sequence[demo_worlds.Asked], size: int) -> tuple[float, list[str]]:
    """Percentage of right answers, and the answers."""
    answers: list[str] = []
    for start in range(0, len(questions), size):
        part = questions[start : start + size]
        given = engine.generate([list(one.pictures) for one in part], [one.prompt for one in part])
        answers += [answer.text for answer in given]
    right = sum(answer == one.answer for answer, one in zip(answers, questions, strict=True))
    return 100 * right / len(questions), answers


def main() -> None:
    from mmbuild.backends.torch import Engine

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dir", type=Path, required=True, help="an empty directory")
    parser.add_argument("--questions", type=int, default=64, help="of each engine")
    parser.add_argument("--calibrated", action="store_true")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: to try this program")
    parser.add_argument("--families", nargs="+", choices=list(PLAIN), default=list(PLAIN))
    arguments = parser.parse_args()
    known = variants(calibrated=arguments.calibrated)
    wanted = [variant for variant in known if variant[0] in arguments.families]
    found = build(arguments.dir, wanted, arguments.device)
    failed = 0
    print(
        "| family | dtype | quantization | alone | in batches of 8 | answers that differ |\n"
        + "|---" * 6
        + "|"
    )
    for family, dtype, precision in wanted:
        directory = found[name(family, dtype, precision)]
        if not (directory / "engine.json").is_file():
            failed += 1
            print(f"| {family} | {dtype} | {precision} | not built | | |", flush=True)
            continue
        engine = Engine.load(directory)
        questions = demo_worlds.ask(family, SEED, arguments.questions, held_out=True)
        (alone, single), (together, batched) = (examine(engine, questions, size) for size in (1, BATCH))
        differ = sum(one != other for one, other in zip(single, batched, strict=True))
        failed += min(alone, together) < BOUND
        print(
            f"| {family} | {dtype} | {precision} | {alone:.1f} % | {together:.1f} % | {differ} |", flush=True
        )
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
