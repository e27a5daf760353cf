"""The commands that serve a checkpoint with the recipe's numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from mmbuild._version import __version__
from mmbuild.backends.base import OwnServer
from mmbuild.backends.hf.consumers.load import Consumer, consumer
from mmbuild.backends.hf.forms import FORMS, Form
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


def own_server(server: str, numbers: Mapping[str, Any], directory: str, form: Form | None) -> OwnServer:
    """The command of one of :data:`SERVERS` for a checkpoint, in a number format that its kernels take.

    Args:
        server: The server's name in recipes.
        numbers: From :func:`serving`.
        directory: The checkpoint.
        form: How its layers are stored; None: unquantized.
    """
    program, dtype = consumer(server), numbers["dtype"]
    served = served_dtype(program, dtype, form)
    remark = (
        f"`--dtype {served}` instead of the recipe's {dtype}: kernels of {program.title} {program.version} "
        f"for quantized layers take {' or '.join(dict.fromkeys(_taken(program, form)))}"
    )
    own = SERVERS[server]({**numbers, "dtype": served}, directory)
    return OwnServer(own, "" if served == dtype else remark)


def served_dtype(program: Consumer, dtype: str, form: Form | None) -> str:
    """``dtype``, or the first that kernels of ``program`` for ``form`` take if they do not take ``dtype``."""
    taken = _taken(program, form)
    return taken[0] if taken and dtype not in taken else dtype


def _taken(program: Consumer, form: Form | None) -> list[str]:
    kernels = program.kernels.get(form.format, ()) if form is not None else ()
    return [name for kernel in kernels for name in kernel.dtypes]


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
    for server, name, own in served:
        remark = [f"    # {own.remark}"] if own.remark else []
        lines += [f'  "{server} {name}")', *remark, f"    exec {own.command}", "    ;;"]
    lines += ["  *)", '    echo "no such server or checkpoint: $*" >&2', "    exit 2", "    ;;", "esac"]
    return "\n".join(lines) + "\n"


def _served(variants: Sequence[ResolvedRecipe]) -> Iterator[tuple[str, str, OwnServer]]:
    """Server, name and command of each variant, for servers that have its family."""
    for variant in variants:
        form = FORMS.get(str(variant.recipe.engine.quantization.algorithm))
        for server in SERVERS:
            if str(variant.recipe.model.family) in consumer(server).families:
                yield server, variant.name, own_server(server, serving(variant), variant.name, form)
