"""Decoding on the CPU beside transformers' generate, one sequence, float32 activations.

A LLaVA of 0.17 billion weights (8 layers, hidden 1024, random) is built with each precision and asked one question
about one picture; transformers runs the same weights eagerly in the same process. Times are per decoded token
after a first run of each. The last row is what calling the packages of one step costs beside what they compute.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.report import Row

NEW_TOKENS = 48
# Activations, rotation, mask, weights and caches of a layer.
INPUTS = 14
ALGORITHMS = {"none": None, "int8": "W8A16", "int4": "W4A16"}
PROMPT = "<image>\nWhat is in this picture?"
CONFIG: dict[str, Any] = {
    "model_type": "llava",
    "image_token_index": 32000,
    "tie_word_embeddings": False,
    "text_config": {
        "model_type": "llama",
        "vocab_size": 32064,
        "hidden_size": 1024,
        "intermediate_size": 2752,
        "num_hidden_layers": 8,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "max_position_embeddings": 2048,
    },
    "vision_config": {
        "model_type": "clip_vision_model",
        "image_size": 112,
        "patch_size": 14,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
    },
}


def measure() -> list[Row]:
    """One row for each precision."""
    from benchmarks.llava_cuda import picture
    from mmbuild.base.progress import silent
    from mmbuild.models.families import part
    from mmbuild.models.families.processor import encode, load_processor
    from mmbuild.models.sources import random_weights

    with tempfile.TemporaryDirectory(prefix="mmbuild-decode-") as place:
        room = Path(place)
        model = room / "model"
        model.mkdir()
        part("llava", "processor").write_stand_in(CONFIG, model)
        shapes = part("llava", "reference").tensor_shapes(CONFIG)
        random_weights.write_weights(CONFIG, shapes, model, 0, "float32", silent)
        request = encode(load_processor(model, "llava"), PROMPT, [picture()])
        baseline = transformers_seconds(model, request)
        steps = {algorithm: step_seconds(room, algorithm) for algorithm in ALGORITHMS}
        rows = [row(algorithm, *step, baseline) for algorithm, step in steps.items()]
        return [*rows, overhead_row(room, min(seconds for seconds, _ in steps.values()))]


def transformers_seconds(model: Path, request: Any) -> float:
    """Seconds per token of transformers' generate, its first token left out."""
    import torch

    from mmbuild.models.families.reference import load_reference

    reference = load_reference("llava", {"model": model}, "float32", "cpu")
    ids = torch.tensor([request.ids])

    def generate(count: int) -> float:
        started = time.perf_counter()
        reference.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=request.pixels,
            do_sample=False,
            max_new_tokens=count,
            min_new_tokens=count,
            pad_token_id=0,
        )
        return time.perf_counter() - started

    generate(2)
    first = min(generate(1) for _ in range(2))
    return (generate(NEW_TOKENS) - first) / (NEW_TOKENS - 1)


def step_seconds(room: Path, algorithm: str) -> tuple[float, int]:
    """Build one engine and ask it twice: seconds per token, and bytes of weights."""
    from benchmarks.llava_cuda import picture
    from mmbuild.backends.torch import Engine

    engine = Engine.load(build(room, algorithm), check=False)
    requests = engine.encode([[picture()]], [PROMPT])
    stopping = engine.stopping(NEW_TOKENS, ignore_eos=True)
    engine.run(requests, stopping)
    profile = engine.run(requests, stopping).profile
    return profile.decode_seconds / profile.steps, engine.session.weight_bytes


def row(algorithm: str, seconds: float, size: int, baseline: float) -> Row:
    """One precision."""
    return Row(
        f"decode, {algorithm}, {size / 1e6:.0f} MB of weights",
        f"{seconds * 1e3:.1f} ms a token ({1 / seconds:.0f} tokens/s)",
        f"transformers generate {baseline * 1e3:.1f} ms: {baseline / seconds:.1f} times as fast",
        "-",
    )


def overhead_row(room: Path, step: float) -> Row:
    """What calling the packages of a step costs beside the fastest ``step``."""
    packages = CONFIG["text_config"]["num_hidden_layers"] + 2  # embed and head
    overhead = packages * call_seconds(room)
    return Row(
        f"calls of {packages} packages, {INPUTS} inputs each, that add two vectors of 8 numbers",
        f"{overhead * 1e6:.0f} us",
        f"fastest step above {step * 1e3:.1f} ms: {overhead / step:.1%} of it",
        "5 %",
    )


def call_seconds(room: Path) -> float:
    """Seconds of a call of a package that computes next to nothing, with as many inputs as a layer has."""
    import torch

    from mmbuild.backends.torch.aot_package import cpu_isa, load_package
    from mmbuild.backends.torch.export import compile_package, export

    class Add(torch.nn.Module):
        """The sum of the first two inputs."""

        def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
            """[8] each -> [8]."""
            return inputs[0] + inputs[1]

    inputs = [torch.zeros(8) for _ in range(INPUTS)]
    path = room / "add.pt2"
    target = {"device": "cpu", "sm": None, "isa": cpu_isa()}
    compile_package(export(Add(), inputs, [None] * INPUTS, "cpu"), path, target)
    package, times = load_package(path, "cpu"), []
    with torch.inference_mode():
        for _ in range(50):
            started = time.perf_counter()
            for _ in range(100):
                package(inputs)
            times.append((time.perf_counter() - started) / 100)
    return min(times)


def build(room: Path, algorithm: str) -> Path:
    """The steps of a recipe, one after the other; returns the engine directory."""
    import torch

    from mmbuild.backends.lowering import step_params
    from mmbuild.backends.torch.aot_package import cpu_isa
    from mmbuild.models.families import family

    facts = family("llava").facts(CONFIG)
    target = {"device": "cpu", "sm": None, "isa": cpu_isa()}
    plain = step_params.convert(facts, "float32", 1)
    checkpoint = run_step("convert", room / f"convert-{algorithm}", plain, target, model=room / "model")
    if algorithm != "none":
        out = room / f"quantize-{algorithm}"
        checkpoint = run_step("quantize", out, {"algorithm": algorithm}, target, checkpoint=checkpoint)
    limits = {
        "max_batch_size": 1,
        "max_beam_width": 1,
        "max_input_len": 256,
        "max_output_len": 64,
        "max_multimodal_len": facts.visual.num_visual_features,
    }
    params = step_params.build_llm(facts, "float32", ALGORITHMS[algorithm], 1, limits)
    shape = step_params.visual_shape("llava", {"model": CONFIG})
    visual = step_params.build_visual(facts, shape, "float32", "float32", 1)
    weights = step_params.convert_visual("llava", shape, "float32")
    eyes = run_step("convert_visual", room / f"eyes-{algorithm}", weights, target, model=room / "model")
    about = step_params.assemble(facts, {"torch": torch.__version__})
    return run_step(
        "assemble",
        room / f"engine-{algorithm}",
        about,
        target,
        checkpoint=checkpoint,
        llm=run_step("build_llm", room / f"llm-{algorithm}", params, target),
        visual=run_step("build_visual", room / f"visual-{algorithm}", visual, target),
        visual_weights=eyes,
        model=room / "model",
    )


def run_step(name: str, out: Path, params: dict[str, Any], target: dict[str, Any], **inputs: Path) -> Path:
    """Run one step in this process; returns its output."""
    import importlib

    from mmbuild.core.steps.context import StepContext

    out.mkdir()
    importlib.import_module(f"mmbuild.steps.{name}").run(
        StepContext(params=params, inputs=inputs, out=out, target=target)
    )
    return out
