"""Convert and quantize beside ``cp`` of the same files, by turns, the best of three each.

`python -m benchmarks.convert` takes a decoder of 1.2 GB with random weights; `--shape 7b` takes
LLaVA-1.5-7B and 45 GB of disk. The import of torch is left out of the times. Peak anonymous memory (RssAnon of
the measured process, every 5 ms) includes the interpreter and torch.
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.report import Row, table

ROUNDS = 3
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

    import torch

    from mmbuild.steps.base import StepContext

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
    module.run(StepContext(params=work.params, inputs=work.inputs, out=out, cores=torch.get_num_threads()))
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
    return rows(SMALL, None)


def rows(config: Mapping[str, Any], directory: Path | None) -> list[Row]:
    """One row for each step; works in ``directory`` or the temporary one."""
    from mmbuild.checkpoint.progress import silent
    from mmbuild.sources import dummy

    with tempfile.TemporaryDirectory(prefix="mmbuild-convert-", dir=directory) as place:
        room = Path(place)
        model = room / "model"
        model.mkdir()
        dummy.write_weights(config, model, 0, "float16", silent)
        params = {"family": "llava", "dtype": "float16"}
        found = []
        for ranks in (1, 2, 4):
            work = Work("convert", {**params, "tensor_parallel": ranks}, {"model": model})
            found.append(row(f"convert, tp {ranks}", work, room))
        checkpoint = room / "checkpoint"
        run(Work("convert", {**params, "tensor_parallel": 1}, {"model": model}), checkpoint)
        for algorithm in ("int8", "int4"):
            work = Work("quantize", {"algorithm": algorithm}, {"checkpoint": checkpoint})
            found.append(row(f"quantize, {algorithm}", work, room))
    return found


def row(what: str, work: Work, room: Path) -> Row:
    """Copy and step by turns; the best of each."""
    (source,) = work.inputs.values()
    size = directory_size(source)
    copies, results = [], []
    for _ in range(ROUNDS):
        copies.append(copy_seconds(source, room / "copy"))
        results.append(run(work, room / "out"))
        shutil.rmtree(room / "out")
    copy, seconds = size / min(copies) / 1e9, min(result.seconds for result in results)
    # Quantize writes a half or a quarter of what it reads, so its rate is that of reading.
    rate = (results[0].size if work.step == "convert" else size) / seconds / 1e9
    peak = max(result.peak for result in results) / 1e6
    return Row(
        what,
        f"{rate:.2f} GB/s ({size / 1e9:.1f} GB in {seconds:.2f} s), peak anonymous {peak:.0f} MB",
        f"cp {copy:.2f} GB/s: {rate / copy:.2f} of it; python with torch {results[0].before / 1e6:.0f} MB",
        "0.5 of cp, 1500 MB" if work.step == "convert" else "1500 MB",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=("small", "7b"), default="small")
    parser.add_argument(
        "--dir", type=Path, default=None, help="where to work; default: the temporary directory"
    )
    args = parser.parse_args()
    config = SMALL
    if args.shape == "7b":
        from mmbuild.sources.config import read_config

        config = read_config("dummy://llava-hf/llava-1.5-7b-hf", None, Path()).config
    print(table(rows(config, args.dir)))


if __name__ == "__main__":
    main()
