"""LLaVA-1.5-7B shapes with random weights on one GPU: build, load and decode, beside transformers' generate.

`python -m benchmarks.llava_cuda --dir DIR` needs a CUDA GPU and 45 GB of disk in DIR. It runs the steps of
`recipes/llava-dummy.yaml` by hand (packages compile in processes side by side), asks each engine about one
picture, and prints a table. Random weights say nothing of quality. The share is (bytes of weights read per token +
live KV bytes) / copy bandwidth / time per token, all of one run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmbuild.base.errors import MmbuildError

MODEL = "llava-hf/llava-1.5-7b-hf"
VARIANTS = {"none": None, "int8": "W8A16", "int4": "W4A16"}
LIMITS = {
    "max_batch_size": 1,
    "max_beam_width": 1,
    "max_input_len": 1024,
    "max_output_len": 128,
    "max_multimodal_len": 576,
}
PROMPT = "<image>\n" + "What is in this picture? "
NEW_TOKENS = 128
PACKAGES = ("layer_prefill", "layer_chunk", "layer_decode", "embed", "head")
BASELINE_TOKENS = 48


def target() -> dict[str, Any]:
    """The GPU here."""
    import torch

    from mmbuild.backends.torch.aot_package import cpu_isa

    major, minor = torch.cuda.get_device_capability()
    return {"device": "cuda", "sm": 10 * major + minor, "isa": cpu_isa()}


def facts() -> Any:
    """ModelFacts of the recorded model."""
    from mmbuild.models.families import family
    from mmbuild.models.sources.config import read_config

    return family("llava").facts(read_config(f"dummy://{MODEL}", None, Path()).config)


def engine_params(variant: str) -> dict[str, Any]:
    """Parameters of build_llm."""
    from mmbuild.backends.lowering import step_params

    return step_params.build_llm(facts(), "float16", VARIANTS[variant], 1, LIMITS)


def compile_one(room: Path, variant: str, package: str) -> None:
    """Export and compile one package of one variant (in a process of its own)."""
    from mmbuild.backends.torch.config import from_json
    from mmbuild.backends.torch.export import compile_package, export_package

    out = room / f"llm-{variant}"
    out.mkdir(exist_ok=True)
    config = from_json(engine_params(variant))
    started = time.perf_counter()
    program = export_package(config, package, "cuda")
    exported = time.perf_counter()
    compile_package(program, out / f"{package}.pt2", target())
    times = {"export": exported - started, "compile": time.perf_counter() - exported}
    (room / f"time-{variant}-{package}.json").write_text(json.dumps(times))
    (out / "llm.json").write_text(json.dumps(config.to_json()))


def visual_shape() -> dict[str, Any]:
    """What the recorded model's tower and projector are built from."""
    from mmbuild.backends.lowering import step_params
    from mmbuild.models.sources.config import read_config

    return step_params.visual_shape("llava", {"model": read_config(f"dummy://{MODEL}", None, Path()).config})


def step(name: str, room: Path, out: str, params: dict[str, Any], **inputs: str) -> float:
    """Run one step in this process; returns its seconds."""
    import importlib

    from mmbuild.core.steps.context import StepContext

    (room / out).mkdir()
    context = StepContext(
        params=params,
        inputs={key: room / value for key, value in inputs.items()},
        out=room / out,
        target=target(),
        cores=os.cpu_count() or 1,
    )
    started = time.perf_counter()
    importlib.import_module(f"mmbuild.steps.{name}").run(context)
    return time.perf_counter() - started


def start(room: Path, *work: str) -> subprocess.Popen[bytes]:
    """Run this module again beside us for one part."""
    command = [sys.executable, "-m", "benchmarks.llava_cuda", "--dir", str(room), "--part", *work]
    log = (room / f"{'-'.join(work)}.log").open("wb")
    return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


def timed(what: str, call: Callable[[], Any]) -> Any:
    """Call, and print how long it took."""
    started = time.perf_counter()
    result = call()
    print(f"{what}: {time.perf_counter() - started:.1f} s", flush=True)
    return result


def build(room: Path) -> None:
    """All steps; compilations beside conversion."""
    from mmbuild.backends.lowering import step_params
    from mmbuild.base.progress import silent
    from mmbuild.models.families import part
    from mmbuild.models.sources import random_weights
    from mmbuild.models.sources.config import read_config

    jobs = {(variant, package): start(room, variant, package) for variant in VARIANTS for package in PACKAGES}
    config = read_config(f"dummy://{MODEL}", None, Path()).config
    model = room / "model"
    model.mkdir()
    part("llava", "processor").write_stand_in(config, model)
    shapes = part("llava", "reference").tensor_shapes(config)
    timed("random weights", lambda: random_weights.write_weights(config, shapes, model, 0, "float16", silent))
    jobs["visual", ""] = start(room, "visual", "")
    eyes = step_params.convert_visual("llava", visual_shape(), "float16")
    print(
        f"convert_visual: {step('convert_visual', room, 'visual-weights', eyes, model='model'):.1f} s",
        flush=True,
    )
    plain = step_params.convert(facts(), "float16", 1)
    print(f"convert: {step('convert', room, 'checkpoint-none', plain, model='model'):.1f} s", flush=True)
    for variant in ("int8", "int4"):
        seconds = step(
            "quantize", room, f"checkpoint-{variant}", {"algorithm": variant}, checkpoint="checkpoint-none"
        )
        print(f"quantize {variant}: {seconds:.1f} s", flush=True)
    for (variant, package), job in jobs.items():
        if job.wait() != 0:
            print(
                f"FAILED {variant} {package}:",
                (room / f"{variant}-{package}.log").read_text()[-3000:],
                flush=True,
            )


def assemble(room: Path, variant: str) -> Path:
    """One engine directory."""
    import torch

    from mmbuild.backends.lowering import step_params

    params = step_params.assemble(facts(), {"torch": torch.__version__})
    parts = {
        "checkpoint": f"checkpoint-{variant}",
        "llm": f"llm-{variant}",
        "visual": "visual",
        "visual_weights": "visual-weights",
        "model": "model",
    }
    step("assemble", room, f"engine-{variant}", params, **parts)
    return room / f"engine-{variant}"


def picture() -> Any:
    """A picture of coloured noise."""
    import numpy as np
    from PIL import Image

    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (336, 336, 3), dtype=np.uint8))


def copy_bandwidth() -> float:
    """Bytes read and written per second of a device-to-device copy."""
    import torch

    source = torch.empty(1 << 32, dtype=torch.int8, device="cuda")
    sink = torch.empty_like(source)
    for _ in range(3):
        sink.copy_(source)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(10):
        sink.copy_(source)
    end.record()
    torch.cuda.synchronize()
    return 20 * source.numel() / (begin.elapsed_time(end) / 1e3)


def measure_engine(room: Path, variant: str, bandwidth: float) -> dict[str, Any]:
    """Load one engine and ask it, twice: the first run captures graphs."""
    import gc

    import torch

    from mmbuild.backends.torch import Engine

    gc.collect()  # the engine before
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    directory = assemble(room, variant)
    started = time.perf_counter()
    engine = Engine.load(directory, check=False)
    loaded = time.perf_counter()
    requests = engine.encode([[picture()]], [PROMPT])
    stopping = engine.stopping(NEW_TOKENS, ignore_eos=True)
    engine.run(requests, engine.stopping(1, ignore_eos=True))
    first = time.perf_counter()
    engine.run(requests, stopping)
    profile = engine.run(requests, stopping).profile
    per_token = profile.decode_seconds / profile.steps
    llm = engine.config
    embedding = llm.vocab_size * llm.hidden_size * llm.torch_dtype.itemsize
    live = (profile.prompt_tokens + NEW_TOKENS / 2) * llm.kv_bytes_per_token
    result = {
        "variant": variant,
        "load s": loaded - started,
        "load to first token s": first - started,
        "visual ms": profile.visual_seconds * 1e3,
        "prefill ms": profile.prefill_seconds * 1e3,
        "ms per token": per_token * 1e3,
        "tokens/s": 1 / per_token,
        "share": (engine.session.weight_bytes - embedding + live) / bandwidth / per_token,
        "weights GB": engine.session.weight_bytes / 1e9,
        "peak GPU GB": profile.peak_bytes / 1e9,
        "packages MB": sum(path.stat().st_size for path in directory.rglob("*.pt2")) / 1e6,
    }
    for package in PACKAGES:
        times = json.loads((room / f"time-{variant}-{package}.json").read_text())
        result[f"compile {package} s"] = times["export"] + times["compile"]
    return result


def measure_transformers(room: Path) -> dict[str, Any]:
    """The same question to transformers, eager, float16."""
    import gc

    import torch

    from mmbuild.models.families.processor import encode, load_processor
    from mmbuild.models.families.reference import load_reference

    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    reference = load_reference("llava", {"model": room / "model"}, "float16", "cuda")
    loaded = time.perf_counter() - started
    request = encode(load_processor(room / "model", "llava"), PROMPT, [picture()])
    ids = torch.tensor([request.ids], device="cuda")
    pixels = request.pixels.to("cuda", torch.float16)

    def generate(count: int) -> float:
        torch.cuda.synchronize()
        begin = time.perf_counter()
        reference.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=pixels,
            do_sample=False,
            max_new_tokens=count,
            min_new_tokens=count,
            pad_token_id=0,
        )
        torch.cuda.synchronize()
        return time.perf_counter() - begin

    generate(2)
    first, whole = generate(1), generate(BASELINE_TOKENS)
    per_token = (whole - first) / (BASELINE_TOKENS - 1)
    return {
        "variant": "transformers generate, fp16",
        "load s": loaded,
        "visual + prefill ms": first * 1e3,
        "ms per token": per_token * 1e3,
        "tokens/s": 1 / per_token,
        "peak GPU GB": torch.cuda.max_memory_allocated() / 1e9,
    }


def part(room: Path, what: str, package: str) -> None:
    """One compilation."""
    if what == "visual":
        from mmbuild.backends.lowering import step_params

        params = step_params.build_visual(facts(), visual_shape(), "float16", "float16", 1)
        seconds = step("build_visual", room, "visual", params)
        (room / "time-visual.json").write_text(json.dumps(seconds))
    else:
        compile_one(room, what, package)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dir", type=Path, required=True, help="an empty directory with 45 GB of room")
    parser.add_argument("--part", nargs=2, help="compile one package (used by this script itself)")
    arguments = parser.parse_args()
    room = arguments.dir
    room.mkdir(parents=True, exist_ok=True)
    if arguments.part:
        part(room, *arguments.part)
        return
    timed("everything built", lambda: build(room))
    bandwidth = copy_bandwidth()
    print(f"copy bandwidth {bandwidth / 1e12:.2f} TB/s", flush=True)
    for variant in VARIANTS:
        try:
            row = measure_engine(room, variant, bandwidth)
        except (OSError, RuntimeError, MmbuildError) as error:
            print(f"FAILED {variant}: {error}", flush=True)
            continue
        print(
            json.dumps(
                {key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()}
            ),
            flush=True,
        )
    row = measure_transformers(room)
    print(
        json.dumps(
            {key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()}
        ),
        flush=True,
    )


if __name__ == "__main__":
    main()
