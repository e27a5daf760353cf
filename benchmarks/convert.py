"""Speed and memory of convert and quantize against ``cp`` of the same bytes, in one run.

    python benchmarks/convert.py                 a decoder of about 1.3 GB
    python benchmarks/convert.py --shape 7b      LLaVA-1.5-7B: needs 45 GB of disk

Random weights are written first. ``cp`` copies the model's files before and after every measurement and the
better of the two counts, so that neither the page cache nor a slow disk favours one side. GB/s are bytes of
the output in wall time, the step's import of torch left out. Peak anonymous memory (RssAnon, sampled every
5 ms in the measured process) includes the interpreter and torch; what it was before the step is beside it.
"""

from __future__ import annotations

import argparse
import json
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


def measure(step: str, params: Mapping[str, Any], inputs: Mapping[str, Path], out: Path) -> Measured:
    """Run a step in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        seconds, before, peak = pool.apply(_run, (step, dict(params), dict(inputs), out))
    return Measured(seconds, directory_size(out), before, peak)


def _run(step: str, params: dict[str, Any], inputs: dict[str, Path], out: Path) -> tuple[float, int, int]:
    import importlib

    import torch

    from mmbuild.steps.base import StepContext

    module = importlib.import_module(f"mmbuild.steps.{step}")
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
    module.run(StepContext(params=params, inputs=inputs, out=out, cores=torch.get_num_threads()))
    seconds = time.perf_counter() - started
    done.set()
    sampler.join()
    return seconds, before, max(peaks)


def directory_size(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.iterdir())


def copy_rate(source: Path, target: Path) -> float:
    """GB/s of ``cp``, not as a reflink."""
    started = time.perf_counter()
    subprocess.run(["cp", "-r", "--reflink=never", str(source), str(target)], check=True)
    seconds = time.perf_counter() - started
    size = directory_size(target)
    shutil.rmtree(target)
    return size / seconds / 1e9


def bench(config: Mapping[str, Any], room: Path) -> None:
    from mmbuild.checkpoint.progress import silent
    from mmbuild.sources import dummy

    model = room / "model"
    model.mkdir()
    started = time.perf_counter()
    dummy.write_weights(config, model, 0, "float16", silent)
    rate = directory_size(model) / (time.perf_counter() - started) / 1e9
    print(f"model: {directory_size(model) / 1e9:.2f} GB, random weights written at {rate:.2f} GB/s\n")
    print("| step | GB out | s | GB/s | cp GB/s | share of cp | peak anonymous MB | before MB |")
    print("|---|---|---|---|---|---|---|---|")
    common = {"family": "llava", "dtype": "float16"}
    for ranks in (1, 2, 4):
        out = room / f"tp{ranks}"
        params = {**common, "tensor_parallel": ranks}
        report(f"convert tp {ranks}", "convert", params, {"model": model}, out, model)
        if ranks > 1:
            shutil.rmtree(out)
    for algorithm in ("int8", "int4"):
        out, source = room / algorithm, room / "tp1"
        report(
            f"quantize {algorithm}", "quantize", {"algorithm": algorithm}, {"checkpoint": source}, out, source
        )
        shutil.rmtree(out)


def report(
    label: str, step: str, params: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, copied: Path
) -> None:
    """One row of the table. GB/s of quantize count what it reads: it writes a half or a quarter of that."""
    before = copy_rate(copied, out.parent / "copy")
    result = measure(step, params, inputs, out)
    copy = max(before, copy_rate(copied, out.parent / "copy"))
    size = directory_size(copied) if step == "quantize" else result.size
    rate = size / result.seconds / 1e9
    print(
        f"| {label} | {result.size / 1e9:.2f} | {result.seconds:.2f} | {rate:.2f} | {copy:.2f} "
        f"| {rate / copy:.2f} | {result.peak / 1e6:.0f} | {result.before / 1e6:.0f} |",
        flush=True,
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
    with tempfile.TemporaryDirectory(prefix="mmbuild-convert-", dir=args.dir) as room:
        print(json.dumps({"shape": args.shape, "directory": str(Path(room).parent)}))
        bench(config, Path(room))


if __name__ == "__main__":
    main()
