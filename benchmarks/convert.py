"""Convert and quantize beside ``cp`` of the same files, by turns, the best of three each.

A decoder of 1.2 GB with random weights. The import of torch is left out of the times. Peak anonymous memory
(RssAnon of the measured process, every 5 ms) includes the interpreter and torch.
`python -m benchmarks.convert --shape 7b` takes LLaVA-1.5-7B, 45 GB of disk and one round.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.report import Row, machine, table

ROUNDS = 3
SEVEN_B = "llava-hf/llava-1.5-7b-hf"
SEVEN_B_TEXT = """LLaVA-1.5-7B with random weights: written by the download step, converted and quantized by the
steps, one round, each beside `cp` of its input. Model, copy and output do not fit into the page cache together."""
SMALL: Mapping[str, Any] = {
    "model_type": "llava",
    "image_token_index": 32000,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "text_config": {
        "model_type": "llama",
        "vocab_size": 32064,
        "hidden_size": 2048,
        "intermediate_size": 5504,
        "num_hidden_layers": 10,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
    },
    "vision_config": {"model_type": "clip_vision_model", "image_size": 28, "patch_size": 14, "hidden_size": 64,
                      "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Work:
    """A step, its parameters and its inputs."""

    step: str
    params: dict[str, Any]
    inputs: dict[str, Path]
    locators: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Measured:
    """One step: wall seconds, bytes written, anonymous memory before and at its peak."""

    seconds: float
    size: int
    before: int
    peak: int


def anonymous_memory() -> int:
    """RssAnon of this process, bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise OSError("this kernel does not state RssAnon")


def run(work: Work, out: Path) -> Measured:
    """Run a step in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        seconds, before, peak = pool.apply(_run, (work, out))
    return Measured(seconds, directory_size(out), before, peak)


def _run(work: Work, out: Path) -> tuple[float, int, int]:
    import importlib

    import torch  # noqa: F401 (before the clock starts)

    from mmbuild.core.steps.context import StepContext

    module = importlib.import_module(f"mmbuild.steps.{work.step}")
    out.mkdir()
    before = anonymous_memory()
    peaks = [before]
    done = threading.Event()

    def sample() -> None:
        while not done.wait(0.005):
            peaks.append(anonymous_memory())

    sampler = threading.Thread(target=sample)
    sampler.start()
    started = time.perf_counter()
    cores = len(os.sched_getaffinity(0))
    module.run(
        StepContext(params=work.params, inputs=work.inputs, locators=work.locators, out=out, cores=cores)
    )
    seconds = time.perf_counter() - started
    done.set()
    sampler.join()
    return seconds, before, max(peaks)


def directory_size(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.iterdir())


def copy_seconds(source: Path, target: Path) -> float:
    """Time of ``cp``, never as a reflink."""
    started = time.perf_counter()
    subprocess.run(["cp", "-r", "--reflink=never", str(source), str(target)], check=True)
    seconds = time.perf_counter() - started
    shutil.rmtree(target)
    return seconds


def measure() -> list[Row]:
    """The rows for the small shape."""
    from mmbuild.base.progress import silent
    from mmbuild.models.families.shared.hugging_face import tensor_shapes
    from mmbuild.models.sources import random_weights

    with tempfile.TemporaryDirectory(prefix="mmbuild-convert-") as place:
        model = Path(place, "model")
        model.mkdir()
        random_weights.write_weights(SMALL, tensor_shapes(SMALL), model, 0, "float16", silent)
        return rows(SMALL, model, Path(place), ROUNDS)


def measure_7b(directory: Path | None) -> list[Row]:
    """The rows for LLaVA-1.5-7B, the writing of its random weights first."""
    from mmbuild.backends.lowering import step_params
    from mmbuild.base.canonical_json import hash_json
    from mmbuild.models.families import family
    from mmbuild.models.sources.config import read_config

    config = read_config(f"dummy://{SEVEN_B}", None, Path()).config
    params = {"kind": "dummy", "seed": 0, "dtype": "float16", "config": hash_json(config)}
    planned = step_params.download(family("llava").facts(config), "model", {"model": config}, [])
    work = Work("download", {**params, **planned}, {}, {"recorded": SEVEN_B})
    with tempfile.TemporaryDirectory(prefix="mmbuild-convert-", dir=directory) as place:
        room = Path(place)
        made = run(work, room / "model")
        copy = made.size / copy_seconds(room / "model", room / "copy") / 1e9
        return [
            stated("download, random weights", made, made.size, copy, "1500 MB"),
            *rows(config, room / "model", room, 1),
        ]


def rows(config: Mapping[str, Any], model: Path, room: Path, rounds: int) -> list[Row]:
    """One row for each way to convert and to quantize ``model``; works in ``room``."""
    from mmbuild.backends.lowering import step_params
    from mmbuild.models.families import family

    facts = family("llava").facts(config)
    found = []
    for ranks in (1, 2, 4):
        work = Work("convert", step_params.convert(facts, "float16", ranks), {"model": model})
        found.append(row(f"convert, tp {ranks}", work, room, rounds))
    checkpoint = room / "checkpoint"
    run(Work("convert", step_params.convert(facts, "float16", 1), {"model": model}), checkpoint)
    for algorithm in ("int8", "int4"):
        work = Work("quantize", {"algorithm": algorithm}, {"checkpoint": checkpoint})
        found.append(row(f"quantize, {algorithm}", work, room, rounds))
    return found


def row(what: str, work: Work, room: Path, rounds: int) -> Row:
    """Copy and step by turns; the best of each."""
    (source,) = work.inputs.values()
    size = directory_size(source)
    copies, results = [], []
    for _ in range(rounds):
        copies.append(copy_seconds(source, room / "copy"))
        results.append(run(work, room / "out"))
        shutil.rmtree(room / "out")
    best = min(results, key=lambda result: result.seconds)
    # Quantize writes a half or a quarter of what it reads, so its rate is that of reading.
    moved = best.size if work.step == "convert" else size
    bound = "0.5 of cp, 1500 MB" if work.step == "convert" else "1500 MB"
    return stated(what, best, moved, size / min(copies) / 1e9, bound)


def stated(what: str, result: Measured, moved: int, copy: float, bound: str) -> Row:
    """A row; ``moved`` bytes count for the rate, ``copy`` is that of ``cp`` in GB/s."""
    rate = moved / result.seconds / 1e9
    return Row(
        what,
        f"{rate:.2f} GB/s ({moved / 1e9:.1f} GB in {result.seconds:.2f} s), "
        f"peak anonymous {result.peak / 1e6:.0f} MB",
        f"cp {copy:.2f} GB/s: {rate / copy:.2f} of it; python with torch {result.before / 1e6:.0f} MB",
        bound,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=("small", "7b"), default="small")
    parser.add_argument("--dir", type=Path, default=None, help="where 7b works; default: the temporary one")
    parser.add_argument("--write", action="store_true", help="put the table of 7b into RESULTS.md")
    args = parser.parse_args()
    if args.shape == "small":
        print(table(measure()))
        return
    text = table(measure_7b(args.dir))
    print(text)
    if args.write:
        from benchmarks.__main__ import write

        made = f"`python -m benchmarks.convert --shape 7b`, {time.strftime('%Y-%m-%d')}, {machine()}"
        write("convert-7b", f"## convert-7b\n\n{SEVEN_B_TEXT}\n\n{made}\n\n{text}\n")


if __name__ == "__main__":
    main()
