"""Words of other tools for keys and values of recipes, so that a finding can name ours."""

from __future__ import annotations

from collections.abc import Mapping

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
}
"""Value in lower case -> value of a recipe."""
