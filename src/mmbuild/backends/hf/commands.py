"""The commands that serve a checkpoint with the recipe's numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from mmbuild._version import __version__
from mmbuild.backends.hf.consumers.load import consumer
from mmbuild.base.shell import line
from mmbuild.schema.resolved import ResolvedRecipe


def serving(variant: ResolvedRecipe) -> dict[str, Any]:
    """What a server must be able to hold, as plain JSON: lengths count tokens, visual features included."""
    engine = variant.recipe.engine
    length = engine.max_input_len + engine.max_output_len
    return {
        "dtype": engine.dtype.value,
        "tensor_parallel": engine.tensor_parallel,
        "max_model_len": length,
        "max_sequences": engine.max_batch_size,
        "images_per_prompt": engine.max_images_per_prompt,
        # A step must hold the features of a whole batch, and the longest prompt at once.
        "max_batched_tokens": max(length, engine.max_multimodal_len or 0, engine.max_batch_size),
        "generation_config": engine.generation_config.value,
    }


def vllm(numbers: Mapping[str, Any], directory: str) -> str:
    """``vllm serve`` for a checkpoint in ``directory``; options of vLLM 0.26."""
    arguments = [
        "vllm", "serve", directory,
        "--dtype", numbers["dtype"],
        "--max-model-len", str(numbers["max_model_len"]),
        "--max-num-seqs", str(numbers["max_sequences"]),
        "--max-num-batched-tokens", str(numbers["max_batched_tokens"]),
        "--limit-mm-per-prompt", json.dumps({"image": numbers["images_per_prompt"]}),
        "--tensor-parallel-size", str(numbers["tensor_parallel"]),
    ]  # fmt: skip
    return line(arguments)


def sglang(numbers: Mapping[str, Any], directory: str) -> str:
    """The command that starts SGLang 0.5.23 for a checkpoint in ``directory``."""
    arguments = [
        "python", "-m", "sglang.launch_server",
        "--model-path", directory,
        "--dtype", numbers["dtype"],
        "--context-length", str(numbers["max_model_len"]),
        "--max-running-requests", str(numbers["max_sequences"]),
        "--chunked-prefill-size", str(numbers["max_batched_tokens"]),
        "--limit-mm-data-per-request", json.dumps({"image": numbers["images_per_prompt"]}),
        "--tp-size", str(numbers["tensor_parallel"]),
    ]  # fmt: skip
    return line(arguments)


SERVERS: Mapping[str, Callable[[Mapping[str, Any], str], str]] = {"vllm": vllm, "sglang": sglang}
"""What writes a server's command, by the server's name in recipes."""


def script(variants: Sequence[ResolvedRecipe]) -> str:
    """A bash script that serves one of ``variants``: ``SCRIPT [SERVER [NAME]]``, the first of each if not given."""
    served = list(_served(variants))
    servers = ", ".join(f"{name} ({consumer(name).title} {consumer(name).version})" for name in SERVERS)
    lines = [
        "#!/usr/bin/env bash",
        f"# Serves checkpoints that mmbuild {__version__} wrote: SCRIPT [SERVER [NAME]]",
        f"# SERVER: {servers}",
        f"# NAME: {', '.join(variant.name for variant in variants)}, as installed below $MMBUILD_BUILD_DIR",
        "set -euo pipefail",
        'cd "${MMBUILD_BUILD_DIR:-build}"',
        f'case "${{1:-{served[0][0]}}} ${{2:-{served[0][1]}}}" in',
    ]
    for server, name, command in served:
        lines += [f'  "{server} {name}")', f"    exec {command}", "    ;;"]
    lines += ["  *)", '    echo "no such server or checkpoint: $*" >&2', "    exit 2", "    ;;", "esac"]
    return "\n".join(lines) + "\n"


def _served(variants: Sequence[ResolvedRecipe]) -> Iterator[tuple[str, str, str]]:
    """Server, name and command of each variant, for servers that have its family."""
    for variant in variants:
        for server, command in SERVERS.items():
            if str(variant.recipe.model.family) in consumer(server).families:
                yield server, variant.name, command(serving(variant), variant.name)
