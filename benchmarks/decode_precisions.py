"""Decoding on the CPU at the width of a 7B model: every precision beside float32, one sequence, 4 layers.

A LLaMA of hidden size 4096, intermediate size 11008 and 4 layers with random weights, float32 activations, mapped
from a file that the page cache holds. One thread; the times are the process's own CPU time, medians over tokens, so
that they stand on a busy machine. Embeddings and head (32000 x 4096) are float32 in all of them; every token reads
the whole head. FP8 is weight-only on the CPU, and its conversion to float32 is slow.
"""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.report import Row

NEW_TOKENS = 24
PROMPT = list(range(1, 33))
GROUP = 128
# What the recipe calls it, and what the checkpoint does.
PRECISIONS = {
    "none": None,
    "int8": "W8A16",
    "int4": "W4A16",
    "int4_awq": "W4A16_AWQ",
    "smoothquant": "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN",
    "fp8": "FP8",
}
# FP8 has no bound: only int8 and int4 must not cost time.
BOUNDED = ("int8", "int4", "int4_awq", "smoothquant")


def measure() -> list[Row]:
    """One row for each precision."""
    rows, baseline = [], 0.0
    for name, quant_algo in PRECISIONS.items():
        with tempfile.TemporaryDirectory(prefix="mmbuild-decode-") as room:
            seconds, size = decode(Path(room), quant_algo)
        baseline = baseline or seconds
        rows.append(
            Row(
                f"{name}, {size / 1e9:.2f} GB of weights",
                f"{seconds * 1e3:.0f} ms a token",
                f"float32 {baseline * 1e3:.0f} ms: {baseline / seconds:.2f} times as fast",
                "1 times as fast" if name in BOUNDED else "-",
            )
        )
    return rows


def decode(room: Path, quant_algo: str | None) -> tuple[float, int]:
    """Seconds per token, and bytes of weights."""
    session = build(room, engine_config(quant_algo))
    session.prefill([PROMPT], session.empty_prompt_table())
    return step_seconds(session, 1), session.weight_bytes


def build(room: Path, config: Any) -> Any:
    """A session of an engine with random weights, on one thread; ``room`` is an empty directory."""
    import torch
    from safetensors.torch import save_file

    from mmbuild.backends.torch.aot_package import cpu_isa
    from mmbuild.backends.torch.session import Session
    from mmbuild.core.steps.context import StepContext
    from mmbuild.steps import build_llm

    target = {"device": "cpu", "sm": None, "isa": cpu_isa()}
    build_llm.run(StepContext(params=config.to_json(), inputs={}, out=room, target=target))
    save_file(random_weights(config), room / "rank0.safetensors")
    torch.set_num_threads(1)
    return Session(config, room, {"": room / "rank0.safetensors"}, target)


def step_seconds(session: Any, sequences: int) -> float:
    """CPU time of a step that appends a token to each of ``sequences``, which the session holds: median."""
    import torch

    times = []
    for token in range(NEW_TOKENS):
        begin = time.process_time()
        session.decode(torch.full((sequences,), token))
        times.append(time.process_time() - begin)
    return statistics.median(times[2:])


def engine_config(quant_algo: str | None) -> Any:
    """Of the engine that is measured."""
    from mmbuild.backends.torch.config import EngineConfig
    from mmbuild.models.families.facts import LlmFacts

    llm = LlmFacts(
        architecture="LlamaForCausalLM",
        vocab_size=32000,
        hidden_size=4096,
        num_hidden_layers=4,
        num_attention_heads=32,
        num_key_value_heads=32,
        head_size=128,
        intermediate_size=11008,
        hidden_act="silu",
        norm_epsilon=1e-5,
        max_position_embeddings=0,
        position_embedding_type="rope_gpt_neox",
        rotary_base=10000.0,
    )
    config = EngineConfig(
        llm=llm,
        encoder=None,
        dtype="float32",
        quant_algo=quant_algo,
        tensor_parallel=1,
        max_batch_size=1,
        max_beam_width=1,
        max_input_len=64,
        max_output_len=64,
        max_multimodal_len=16,
    )
    return dataclasses.replace(config, group_size=GROUP) if quant_algo == "W4A16_AWQ" else config


def random_weights(config: Any) -> dict[str, Any]:
    """Of the size that a checkpoint has; scales such that activations stay finite."""
    import torch

    from mmbuild.backends.torch.build_module import weights_of

    def fill(name: str, shape: tuple[int, ...], dtype: Any) -> Any:
        if dtype == torch.int8:
            return torch.randint(-128, 128, shape, dtype=torch.int8)
        if dtype == torch.float8_e4m3fn:
            return torch.empty(shape).uniform_(-100, 100).to(dtype)
        if "scal" in name or "smoother" in name:
            return torch.full(shape, 1.0 if "prequant" in name or "smoother" in name else 1e-4, dtype=dtype)
        return torch.empty(shape, dtype=dtype).uniform_(-0.02, 0.02)

    weights = weights_of(config)
    return {name: fill(name, tuple(value.shape), value.dtype) for name, value in weights.items()}
