"""Steps of several sequences at LLaVA-1.5-7B's shapes on one GPU, every format beside float16.

    python -m benchmarks.batches_cuda --dir DIR [--formats none int4 ...] [--batches 1 2 4 8 16 32] [--profile]

Random weights, made on the GPU; prompts of 603 tokens. A step is the mean of 64 after a prefill, the greedy choice of
tokens included; prefill is that of one prompt, the best of five. Engines hold 8 sequences for batches up to 8, else
32. `--profile` prints which kernels the steps of the largest batch spend their time in.

The share is that of one sequence: (bytes of weights that a token reads + live keys and values) / copy bandwidth,
measured in the same run, / time of a step. With `--quiet-after FILE` engines are compiled at once and measured when
that file exists, so that something else may use the GPU meanwhile.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest import mock

FORMATS = {
    "none": None,
    "int8": "W8A16",
    "int4": "W4A16",
    "int4_awq": "W4A16_AWQ",
    "smoothquant": "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN",
    "fp8": "FP8",
}
PROMPT, STEPS, GROUP, LAYERS = 603, 64, 128, 32
_SHARED = ("embed", "head", "head_batch")


def engine_config(name: str, sequences: int) -> Any:
    """Of an engine for ``sequences`` prompts."""
    from benchmarks.llava_cuda import facts
    from mmbuild.backends.lowering import step_params
    from mmbuild.backends.torch.config import from_json

    limits = {
        "max_batch_size": sequences,
        "max_beam_width": 1,
        "max_input_len": 1024,
        "max_output_len": 128,
        "max_multimodal_len": 576 * sequences,
    }
    group = GROUP if name == "int4_awq" else None
    return from_json(step_params.build_llm(facts(), "float16", FORMATS[name], 1, limits, group))


def compile_one(job: tuple[str, int, str, str]) -> float:
    """One package, in a process of its own; its seconds."""
    from benchmarks.llava_cuda import target
    from mmbuild.backends.torch.export import compile_package, export_package

    room, sequences, name, package = job
    out = Path(room) / f"{name}-{sequences}"
    out.mkdir(exist_ok=True)
    begin = time.perf_counter()
    compile_package(
        export_package(engine_config(name, sequences), package, "cuda"), out / f"{package}.pt2", target()
    )
    return time.perf_counter() - begin


def build(room: Path, names: list[str], sizes: Iterable[int]) -> None:
    """Compile all packages, those that do not depend on the format once."""
    from mmbuild.backends.torch import packages

    jobs, links = [], []
    for sequences in sizes:
        for name in names:
            for package in packages.table(engine_config(name, sequences)):
                shared = package in _SHARED and name != names[0]
                (links if shared else jobs).append((str(room), sequences, name, package))
    begin = time.perf_counter()
    with ProcessPoolExecutor(14, get_context("spawn")) as pool:
        list(pool.map(compile_one, jobs))
    print(f"{len(jobs)} packages compiled in {time.perf_counter() - begin:.0f} s", flush=True)
    for _, sequences, name, package in links:
        out = room / f"{name}-{sequences}"
        (out / f"{package}.pt2").symlink_to(room / f"{names[0]}-{sequences}" / f"{package}.pt2")
        for kernel in (room / f"{names[0]}-{sequences}" / "kernels").iterdir():
            if not (out / "kernels" / kernel.name).exists():
                (out / "kernels" / kernel.name).symlink_to(kernel)


def random_tensors(config: Any) -> dict[str, Any]:
    """Weights on the GPU, by name: small numbers, so that nothing overflows."""
    import torch

    from mmbuild.backends.torch.weights import expected_tensors

    dtypes = {"F32": torch.float32, "F16": torch.float16, "I8": torch.int8, "F8_E4M3": torch.float8_e4m3fn}
    torch.manual_seed(0)
    tensors = {}
    for name, (kind, shape) in expected_tensors(config).items():
        if kind == "I8":
            value = torch.randint(-127, 128, shape, dtype=torch.int8, device="cuda")
        elif name.endswith("smoother"):
            value = torch.ones(shape, device="cuda")
        elif "scal" in name:
            # Such that weights are about 0.02, whatever the integers are.
            units = {"W8A16": 73, "W4A16": 4.6, "W4A16_AWQ": 4.6, "FP8": 1.0}.get(config.quant_algo, 73)
            value = torch.full(shape, 0.02 / units, dtype=dtypes[kind], device="cuda")
            if name.endswith(("prequant_scaling_factor", "activation_scaling_factor")):
                value.fill_(1.0 if "prequant" in name else 0.05)
        else:
            value = (
                torch.randn(shape, device="cuda").mul_(1.0 if kind == "F8_E4M3" else 0.02).to(dtypes[kind])
            )
            value = value.abs_().add_(1.0) if "layernorm" in name or "ln_f" in name else value
        tensors[name] = value
    return tensors


def session(room: Path, name: str, sequences: int) -> Any:
    """An engine with random weights."""
    from benchmarks.llava_cuda import target
    from mmbuild.backends.torch import weights
    from mmbuild.backends.torch.session import Session

    config = engine_config(name, sequences)
    config = replace(config, llm=replace(config.llm, num_hidden_layers=LAYERS))
    with mock.patch.object(weights, "load_rank_file", side_effect=lambda *_: random_tensors(config)):
        return Session(config, room / f"{name}-{sequences}", {"": room}, target())


def steps(engine: Any, batch: int, count: int = STEPS) -> tuple[float, Any]:
    """Milliseconds a step of ``batch`` sequences, and their tokens."""
    import torch

    prompts = [[1 + (7 * row + place) % 31000 for place in range(PROMPT)] for row in range(batch)]
    logits = torch.cat(
        [engine.prefill([p], engine.empty_prompt_table(), [row]) for row, p in enumerate(prompts)]
    )
    rows, tokens = list(range(batch)), []
    for step in range(count + 1):
        if step == 1:  # the first one captures
            torch.cuda.synchronize()
            begin = time.perf_counter()
        tokens.append(logits.argmax(-1))
        logits = engine.decode(tokens[-1], rows)
    torch.cuda.synchronize()
    return (time.perf_counter() - begin) / count * 1e3, torch.stack(tokens).tolist()


def prefill(engine: Any) -> float:
    """Milliseconds of one prompt."""
    import torch

    best = float("inf")
    for _ in range(6):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        engine.prefill([list(range(1, PROMPT + 1))], engine.empty_prompt_table())
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begin)
    return best * 1e3


def floor(engine: Any) -> float:
    """Bytes that a token of one sequence reads: weights without the embedding, keys and values half way."""
    config = engine.config
    embedding = config.vocab_size * config.llm.hidden_size * 2
    live = (PROMPT + STEPS // 2) * config.kv_bytes_per_token
    return float(engine.weight_bytes - embedding + live)


def profile(engine: Any, batch: int) -> None:
    """Kernels of a step by time."""
    import torch

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
        steps(engine, batch, 8)
    rows = sorted(seen.key_averages(), key=lambda row: -row.device_time_total)
    for row in rows[:24]:
        print(f"    {row.device_time_total / 1e3:8.2f} ms {row.count:6} x {row.key[:90]}", flush=True)


def measure(
    room: Path, names: list[str], batches: list[int], *, profiled: bool
) -> dict[str, dict[str, float]]:
    """Milliseconds by format and batch, and the share."""
    import gc

    import torch

    from benchmarks.llava_cuda import copy_bandwidth

    bandwidth = copy_bandwidth()
    print(f"copy bandwidth {bandwidth / 1e12:.2f} TB/s", flush=True)
    results: dict[str, dict[str, float]] = {}
    for name in names:
        results[name] = {}
        for sequences in (8, 32):
            own = [batch for batch in batches if (batch <= 8) == (sequences == 8)]
            if not own:
                continue
            engine = session(room, name, sequences)
            for batch in own:
                results[name][str(batch)] = min(steps(engine, batch)[0] for _ in range(2))
            if "1" in results[name]:
                results[name].setdefault("share", floor(engine) / bandwidth / results[name]["1"] * 1e3)
            results[name].setdefault("prefill", prefill(engine))
            if profiled:
                profile(engine, own[-1])
            del engine
            gc.collect()
            torch.cuda.empty_cache()
        print(name, {key: round(value, 3) for key, value in results[name].items()}, flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dir", type=Path, required=True, help="an empty directory")
    parser.add_argument("--formats", nargs="+", choices=list(FORMATS), default=list(FORMATS))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--quiet-after", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    arguments.dir.mkdir(parents=True, exist_ok=True)
    sizes = sorted({8 if batch <= 8 else 32 for batch in arguments.batches})
    build(arguments.dir, arguments.formats, sizes)
    while arguments.quiet_after is not None and not arguments.quiet_after.exists():
        time.sleep(0.2)
    results = measure(arguments.dir, arguments.formats, arguments.batches, profiled=arguments.profile)
    print(json.dumps(results))
    columns = [*map(str, arguments.batches), "prefill", "share"]
    print("\n| format | " + " | ".join(columns) + " |\n|---" + "|---" * len(columns) + "|")
    for name, row in results.items():
        print(f"| {name} | " + " | ".join(f"{row.get(column, 0):.3g}" for column in columns) + " |")


if __name__ == "__main__":
    main()
