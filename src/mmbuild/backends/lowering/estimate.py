"""Estimates of an action's disk use and anonymous memory, in bytes, from the model's sizes.

They decide which actions run concurrently and reject builds that cannot fit. They are not part of any key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mmbuild.models.families.facts import LlmFacts, VisualFacts

GIB = 1 << 30
DOWNLOAD_MEMORY = GIB // 4
PACKAGE_DISK = 64 << 20
# Importing torch and compiling, measured with small models: 0.6 GiB in the process, 0.6 GiB in two compilers.
_COMPILE_MEMORY = GIB + GIB // 4
# On a GPU: a context, and the tensors that kernels are compiled for, uninitialized.
_CUDA_CONTEXT = GIB // 2
# transformers and Model Optimizer once imported.
_CALIBRATION_BASE = GIB
# Host memory of a CUDA context.
_CUDA_HOST = GIB
_ITEM_BYTES: Mapping[str, float] = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "int4": 0.5,
    "int4_awq": 0.52, "smoothquant": 1, "fp8": 1,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of a model, bytes.

    Attributes:
        model: Weights as downloaded (LLM only; the visual tower is small in comparison).
        checkpoint: The converted checkpoint.
        quantized: The quantized checkpoint.
        layers: All linear layers of the LLM, unquantized, in the checkpoint's dtype.
        layer: The linear layers of one LLM layer.
        convert_memory: Peak anonymous memory of convert and quantize: a few tensors at a time.
        engine_memory: Peak memory of build_llm without its key-value caches (:func:`cache_memory`).
        verify_memory: Peak memory of verify: reference and engine at once.
    """

    model: int
    checkpoint: int
    quantized: int
    layers: int
    layer: int
    convert_memory: int
    engine_memory: int
    verify_memory: int


def sizes(stacks: Sequence[LlmFacts], dtype: str, algorithm: str) -> Sizes:
    """Estimates from the shapes of decoder and encoder, the engine's dtype and quantization algorithm."""
    llm = stacks[0]
    embedding = llm.vocab_size * llm.hidden_size
    # An encoder has its own embedding table and no head.
    tables = (len(stacks) + 1) * embedding
    linear = sum(map(linear_weights, stacks))
    item = _ITEM_BYTES[dtype]
    largest = max(embedding, 3 * llm.hidden_size * llm.intermediate_size)
    checkpoint = int((linear + tables) * item)
    return Sizes(
        model=int((linear + 2 * embedding) * 2),
        checkpoint=checkpoint,
        quantized=int(linear * _ITEM_BYTES.get(algorithm, item) + tables * item),
        layers=int(linear * item),
        layer=int(linear_weights(llm) * item) // llm.num_hidden_layers,
        convert_memory=GIB // 4 + int(largest * 4),
        engine_memory=_COMPILE_MEMORY,
        verify_memory=GIB + 2 * checkpoint,
    )


def compile_gpu_memory(tensors: int, processes: int) -> int:
    """Peak GPU memory of processes that compile packages, each with ``tensors`` bytes of its own."""
    return processes * (_CUDA_CONTEXT + tensors)


def calibration_memory(size: Sizes, *, on_gpu: bool, split: bool = False) -> int:
    """Peak anonymous host memory of a calibration: copies of one layer, transformers and Model Optimizer.

    On a CPU, plus the whole model in float32. On a GPU the weights are memory-mapped (measured 2.0 GB for a 7B model,
    estimated 2.9), unless the model is ``split`` because the GPU cannot hold it: then the host holds it.
    """
    model = (size.checkpoint if split else 0) if on_gpu else size.model * 2
    return _CALIBRATION_BASE + size.convert_memory + (_CUDA_HOST if on_gpu else 0) + model


def calibration_seconds(size: Sizes, algorithm: str, samples: int, *, on_gpu: bool) -> float:
    """Duration of a calibration in seconds, for display: imports, reading, forward passes of all samples, writing.

    The GPU numbers come from one run (7B, 16 samples, an H200 shared with compilers): Model Optimizer's extension
    compiled in 51 s, files were read in 5 s and written in 31 s; a sample took 1.6 s, with int4_awq 3.1 s.
    """
    passes = 2 if algorithm == "int4_awq" else 1
    if on_gpu:
        return 55 + size.model * (2.7e-9 + samples * passes * 1.2e-10)
    # A forward pass on a CPU reads about 2 GB/s of weights; the AWQ search tries eleven scales.
    return 20 + samples * size.model / 2e9 * (11 if algorithm == "int4_awq" else 1)


def calibration_gpu_memory(size: Sizes, *, split: bool = False) -> int:
    """Peak GPU memory of a calibration: the model in the engine's dtype (if ``split``: one layer, embeddings and
    visual tower), copies of a layer, activations of one sample.
    """
    model = size.checkpoint - size.layers + size.layer if split else size.checkpoint
    return model + 4 * size.convert_memory


def weight_cores(checkpoint: int) -> int:
    """Cores for convert and quantize: small models leave cores to compilers; beyond eight, the disk limits."""
    return max(1, min(8, checkpoint // GIB))


def linear_weights(llm: LlmFacts) -> int:
    """Number of weights in all linear layers of a stack."""
    heads = (2 * llm.num_attention_heads + 2 * llm.num_key_value_heads) * llm.head_size
    attentions, matrices = (2 if llm.cross_attention else 1), (3 if llm.mlp_type == "GatedMLP" else 2)
    layer = llm.hidden_size * (attentions * heads + matrices * llm.intermediate_size)
    return layer * llm.num_hidden_layers


def cache_memory(llm: LlmFacts, dtype: str, sequences: int, slots: int) -> int:
    """Size of an engine's key-value caches; Inductor copies them once while it compiles."""
    per_slot = 2 * llm.num_key_value_heads * llm.head_size * llm.num_hidden_layers
    return int(per_slot * _ITEM_BYTES[dtype]) * sequences * slots


def visual_memory(visual: VisualFacts) -> int:
    """Peak memory of building a TensorRT visual engine: the tower twice (weights and the exported copy) and torch."""
    return _COMPILE_MEMORY + 2 * visual_size(visual, "float32")


def visual_size(visual: VisualFacts, dtype: str) -> int:
    """Size of the weights of a visual tower."""
    layer = 4 * visual.hidden_size**2 + 2 * visual.hidden_size * visual.intermediate_size
    return int(_ITEM_BYTES[dtype] * layer * visual.num_hidden_layers)
