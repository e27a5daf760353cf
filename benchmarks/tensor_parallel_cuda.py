"""LLaVA-1.5-7B shapes with random weights over two GPUs: the same answers as on one, and how much faster.

    python -m benchmarks.tensor_parallel_cuda --dir /tmp/tp [--model DIR] [--ranks 2]

Builds float16 engines of one rank and of several from the same model (random weights of the recorded 7B shapes, or
what ``--model`` names), continues the same prompt with both, and compares: logits fed one rank's tokens, and the
tokens that each takes by itself. Prints one line of JSON for each. Works on the CPU too, with a small ``--model``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

RECORDED = "llava-hf/llava-1.5-7b-hf"
DTYPE = "float16"
NEW_TOKENS, COMPARED = 128, 48
QUESTION = "What is in this picture? "
PACKAGES = ("layer_prefill", "layer_chunk", "layer_decode", "embed", "head")


def target() -> dict[str, Any]:
    """The GPU here, else the CPU."""
    import torch

    from mmbuild.backends.torch.aot_package import cpu_isa

    if not torch.cuda.is_available():
        return {"device": "cpu", "sm": None, "isa": cpu_isa()}
    major, minor = torch.cuda.get_device_capability()
    return {"device": "cuda", "sm": 10 * major + minor, "isa": cpu_isa()}


def model_facts(room: Path) -> Any:
    """ModelFacts of the model in ``room``."""
    from mmbuild.models.families import family

    return family("llava").facts(json.loads((room / "model" / "config.json").read_text()))


def limits(facts: Any) -> dict[str, int]:
    """What the engines are built for: one prompt, one picture."""
    features = facts.visual.num_visual_features
    return {
        "max_batch_size": 1,
        "max_beam_width": 1,
        "max_input_len": features + 64,
        "max_output_len": NEW_TOKENS,
        "max_multimodal_len": features,
    }


def step(name: str, room: Path, out: str, params: dict[str, Any], **inputs: str) -> None:
    """Run one step in this process."""
    import importlib
    import os

    from mmbuild.core.steps.context import StepContext

    (room / out).mkdir(exist_ok=True)
    context = StepContext(
        params=params,
        inputs={key: room / value for key, value in inputs.items()},
        out=room / out,
        target=target(),
        cores=min(16, os.cpu_count() or 1),
    )
    started = time.perf_counter()
    importlib.import_module(f"mmbuild.steps.{name}").run(context)
    print(f"{out}: {time.perf_counter() - started:.1f} s", flush=True)


def compile_part(room: Path, ranks: int, package: str) -> None:
    """Compile one package of one engine, or the visual engine (in a process of its own)."""
    from mmbuild.backends.lowering import step_params
    from mmbuild.backends.torch.config import from_json
    from mmbuild.backends.torch.distributed.collectives import compiling
    from mmbuild.backends.torch.export import compile_package, export_package

    facts = model_facts(room)
    if package == "visual":
        config = json.loads((room / "model" / "config.json").read_text())
        shape = step_params.visual_shape("llava", {"model": config})
        step("build_visual", room, "visual", step_params.build_visual(facts, shape, DTYPE, DTYPE, 1))
        weights = step_params.convert_visual("llava", shape, DTYPE)
        step("convert_visual", room, "visual-weights", weights, model="model")
        return
    config = from_json(step_params.build_llm(facts, DTYPE, None, ranks, limits(facts)))
    out = room / f"llm-{ranks}"
    program = export_package(config, package, target()["device"])
    with compiling(ranks):
        compile_package(program, out / f"{package}.pt2", target())
    (out / "llm.json").write_text(json.dumps(config.to_json()))


def make_model(room: Path, given: Path | None) -> None:
    """``room/model``: the given one, or random weights of the recorded shapes."""
    from mmbuild.base.progress import silent
    from mmbuild.models.families import part
    from mmbuild.models.sources import random_weights
    from mmbuild.models.sources.config import read_config

    if given is not None:
        (room / "model").symlink_to(given.absolute())
        return
    config = read_config(f"dummy://{RECORDED}", None, Path()).config
    (room / "model").mkdir()
    part("llava", "processor").write_stand_in(config, room / "model")
    (room / "model" / "config.json").write_text(json.dumps(config))
    shapes = part("llava", "reference").tensor_shapes(config)
    random_weights.write_weights(config, shapes, room / "model", 0, DTYPE, silent)


def build(room: Path, given: Path | None, ranks: int) -> None:
    """Both engines; compilations beside conversions."""
    import torch

    from mmbuild.backends.lowering import step_params

    started = time.perf_counter()
    make_model(room, given)
    print(f"model: {time.perf_counter() - started:.1f} s", flush=True)
    facts = model_facts(room)
    jobs = {}
    for number in (1, ranks):
        (room / f"llm-{number}").mkdir()
    for number, package in [*((n, p) for n in (1, ranks) for p in PACKAGES), (1, "visual")]:
        command = [sys.executable, "-m", "benchmarks.tensor_parallel_cuda", "--dir", str(room)]
        log = (room / f"compile-{number}-{package}.log").open("wb")
        jobs[number, package] = subprocess.Popen(
            [*command, "--part", str(number), package], stdout=log, stderr=subprocess.STDOUT
        )
    for number in (1, ranks):
        step(
            "convert", room, f"checkpoint-{number}", step_params.convert(facts, DTYPE, number), model="model"
        )
    for (number, package), job in jobs.items():
        if job.wait() != 0:
            print((room / f"compile-{number}-{package}.log").read_text()[-3000:], flush=True)
            raise SystemExit(f"compiling {package} for {number} ranks failed")
    print(f"all compiled: {time.perf_counter() - started:.1f} s", flush=True)
    about = step_params.assemble(facts, {"torch": torch.__version__})
    for number in (1, ranks):
        parts = {
            "checkpoint": f"checkpoint-{number}",
            "llm": f"llm-{number}",
            "visual": "visual",
            "visual_weights": "visual-weights",
        }
        step("assemble", room, f"engine-{number}", about, model="model", **parts)


def measure(engine: str, forced: str | None, out: str) -> None:
    """Continue the prompt, twice, and write tokens, logits along ``forced``'s tokens, and times to ``out``.

    Called in every rank of the engine.

    Args:
        engine: The engine directory.
        forced: What this function wrote for another engine; left out: this engine's own tokens.
        out: A file to write.
    """
    import torch
    from PIL import Image

    from mmbuild.backends.torch import Engine

    started = time.perf_counter()
    loaded = Engine.load(engine, check=False)
    size = loaded.visual.config.image_size
    picture = torch.randint(0, 256, (*size, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    requests = loaded.encode([Image.fromarray(picture.numpy())], [QUESTION])
    stopping = loaded.stopping(NEW_TOKENS, ignore_eos=True)
    first = loaded.run(requests, stopping)
    ready = time.perf_counter() - started
    generation = loaded.run(requests, stopping)
    tokens = list(generation.answers[0].token_ids)
    fed = torch.load(forced, weights_only=True)["tokens"] if forced else tokens
    prompts, visual = loaded.inputs(requests)
    logits = [loaded.session.prefill(prompts, visual).cpu().clone()]
    for token in fed[: COMPARED - 1]:
        logits.append(
            loaded.session.decode(torch.tensor([token], device=loaded.session.device)).cpu().clone()
        )
    profile = generation.profile
    torch.save(
        {
            "tokens": tokens,
            "repeated": list(first.answers[0].token_ids) == tokens,
            "logits": torch.cat(logits),
            "load and first answer s": ready,
            "prefill ms": profile.prefill_seconds * 1e3,
            "ms per token": profile.decode_seconds / profile.steps * 1e3,
            "peak GPU GB": profile.peak_bytes / 1e9,
            "weights GB": loaded.session.weight_bytes / 1e9,
        },
        out,
    )


def judge(room: Path, ranks: int) -> dict[str, Any]:
    """How the engine of several ranks compares with that of one."""
    import torch

    from mmbuild.backends.comparison import TIE, kl_divergence

    one, many = (torch.load(room / f"measured-{n}.pt", weights_only=True) for n in (1, ranks))
    bound = TIE[DTYPE]
    apart = (one["logits"] - many["logits"]).abs()
    best = one["logits"].topk(2, dim=-1).values
    margin = best[:, 0] - best[:, 1]
    same = one["logits"].argmax(-1) == many["logits"].argmax(-1)
    prefix = next(
        (i for i, pair in enumerate(zip(one["tokens"], many["tokens"], strict=True)) if pair[0] != pair[1]),
        NEW_TOKENS,
    )
    return {
        "positions compared": len(same),
        "largest logit": float(one["logits"].abs().max()),
        "largest difference of logits": float(apart.max()),
        "bound": bound,
        "within bound": bool(apart.max() <= bound),
        "positions whose margin exceeds the bound": int((margin > bound).sum()),
        "tokens equal there": bool(same[margin > bound].all()),
        "tokens equal": int(same.sum()),
        "largest KL": float(kl_divergence(one["logits"], many["logits"]).max()),
        "equal greedy prefix": prefix,
        "speed-up per token": one["ms per token"] / many["ms per token"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dir", type=Path, required=True, help="where everything is built (60 GB at 7B)")
    parser.add_argument("--model", type=Path, default=None, help="a LLaVA instead of random 7B weights")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--only", choices=("build", "measure"), default=None)
    parser.add_argument("--part", nargs=2, default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    room, ranks = arguments.dir, arguments.ranks
    room.mkdir(parents=True, exist_ok=True)
    if arguments.part:
        compile_part(room, int(arguments.part[0]), arguments.part[1])
        return
    if arguments.only != "measure":
        build(room, arguments.model, ranks)
    if arguments.only == "build":
        return
    import torch

    from mmbuild.backends.torch.distributed.launch import run_on_ranks

    for number, forced in ((1, None), (ranks, str(room / "measured-1.pt"))):
        out = room / f"measured-{number}.pt"
        named = {"engine": str(room / f"engine-{number}"), "forced": forced, "out": str(out)}
        if number == 1:  # in a process of its own too, so that its memory is free again
            code = f"from benchmarks.tensor_parallel_cuda import measure; measure(**{named!r})"
            subprocess.run([sys.executable, "-c", code], check=True)
        else:
            run_on_ranks(number, "benchmarks.tensor_parallel_cuda:measure", named)
        found = torch.load(out, weights_only=True)
        shown = {key: value for key, value in found.items() if key not in ("tokens", "logits")}
        print(json.dumps({"ranks": number, **shown}), flush=True)
    print(json.dumps(judge(room, ranks)), flush=True)


if __name__ == "__main__":
    main()
