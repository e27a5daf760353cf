"""Words of other tools for keys and values of recipes, so that a finding can name ours."""

from __future__ import annotations

import re
from collections.abc import Mapping

from mmbuild.schema.model import NAME_PATTERN

KEYS: Mapping[str, str] = {
    # vLLM, SGLang
    "max_model_len": "engine.max_input_len",
    "max_num_seqs": "engine.max_batch_size",
    "max_tokens": "engine.max_output_len",
    "limit_mm_per_prompt": "engine.max_images_per_prompt",
    "tensor_parallel_size": "engine.tensor_parallel",
    "served_model_name": "name",
    # transformers
    "max_new_tokens": "engine.max_output_len",
    "model_id": "model.source",
    "model_name_or_path": "model.source",
    "num_beams": "engine.max_beam_width",
    "torch_dtype": "engine.dtype",
    # TensorRT-LLM
    "max_beams": "engine.max_beam_width",
    "max_seq_len": "engine.max_input_len",
    "model_dir": "model.source",
    "qformat": "engine.quantization",
    "tp_size": "engine.tensor_parallel",
    # others
    "batch_size": "engine.max_batch_size",
    "bits": "engine.quantization",
    "precision": "engine.dtype",
    "quant": "engine.quantization",
    "quantize": "engine.quantization",
}
"""Key -> dotted key of a recipe."""

KEY_HINTS: Mapping[str, str] = {
    "max_model_len": "vLLM's max_model_len is max_input_len + max_output_len",
    "max_seq_len": "TensorRT-LLM's max_seq_len is max_input_len + max_output_len",
    "gpu_memory_utilization": "mmbuild sizes its caches from max_batch_size, max_input_len and max_output_len",
}
"""Key that has no equal in a recipe -> what to do about it."""

VALUES: Mapping[str, str] = {
    "bf16": "bfloat16",
    "fp16": "float16",
    "fp32": "float32",
    "half": "float16",
    "f16": "float16",
    "f32": "float32",
    "float": "float32",
    "4bit": "int4",
    "4-bit": "int4",
    "int4_wo": "int4",
    "w4a16": "int4",
    "8bit": "int8",
    "8-bit": "int8",
    "int8_wo": "int8",
    "w8a16": "int8",
    "awq": "int4_awq",
    "w4a16_awq": "int4_awq",
    "int8_sq": "smoothquant",
    "sq": "smoothquant",
    "w8a8": "smoothquant",
    "fp8_e4m3": "fp8",
    "gpu": "cuda",
    "nvidia": "cuda",
    "trt": "tensorrt",
    "vllm": "hf",
    "sglang": "hf",
    "transformers": "hf",
    "gptq": "int4",
    "int4_gptq": "int4",
    "nf4": "int4",
    "bnb": "int4",
    "bitsandbytes": "int4",
}
"""Value in lower case -> value of a recipe."""

_NO_GPTQ = "mmbuild does not write GPTQ; int4 needs no data, int4_awq is calibrated"
_NO_BNB = "mmbuild does not write the formats of bitsandbytes; int4 and int8 need no data"

_VALUE_HINTS: Mapping[str, str] = {
    "vllm": "vLLM serves what `backend: hf` writes",
    "sglang": "SGLang serves what `backend: hf` writes",
    "transformers": "transformers loads what `backend: hf` writes",
    "gptq": _NO_GPTQ,
    "int4_gptq": _NO_GPTQ,
    "nf4": _NO_BNB,
    "bnb": _NO_BNB,
    "bitsandbytes": _NO_BNB,
}
"""Value in lower case -> how it differs from the one that is suggested."""

_GPUS: Mapping[int, tuple[str, ...]] = {
    70: ("v100",),
    75: ("t4",),
    80: ("a100", "a30"),
    86: ("a10", "a40", "rtx3090"),
    89: ("l4", "l40", "l40s", "rtx4090"),
    90: ("h100", "h200", "h20", "gh200"),
    100: ("b200", "gb200"),
}
"""Compute capability without the dot -> GPUs (NVIDIA, "CUDA GPU Compute Capability")."""

_OLDEST_SM, _NEWEST_SM = 50, 200
_SM = re.compile(r"(?:sm_?)?(\d{1,2})\.?(\d)[a-z]?")


def value_hint(key: str, value: object) -> str | None:
    """Return what to write instead of ``value`` of the dotted ``key``; None if it is no known word or form."""
    if key == "target.sm":
        capability = _capability(str(value).lower())
        return None if capability is None else f"write {capability}"
    if key == "name":
        return _name_hint(value)
    section = key.rpartition(".")[2]
    return (
        _VALUE_HINTS.get(str(value).lower()) if section in ("backend", "quantization", "algorithm") else None
    )


def _name_hint(value: object) -> str | None:
    """A name that is allowed, as similar as possible to ``value``."""
    name = re.sub(r"[^A-Za-z0-9._]+", "-", str(value)).strip("-._")
    fits = isinstance(value, str) and re.fullmatch(NAME_PATTERN, name)
    return f"use only letters, digits, `.`, `_` and `-`: `{name}`" if fits else None


def _capability(word: str) -> int | None:
    """The number for ``9.0``, ``sm_90a`` or ``h100``."""
    if (found := _SM.fullmatch(word)) and _OLDEST_SM <= (number := int(found[1] + found[2])) <= _NEWEST_SM:
        return number
    compact = re.sub(r"[ _-]|nvidia", "", word)
    return next((number for number, names in _GPUS.items() if compact in names), None)
