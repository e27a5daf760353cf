"""What an action will take, from the model's sizes: bytes of disk and of anonymous memory.

Estimates decide what runs side by side and refuse a build that cannot fit; nothing of them is in a key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mmbuild.models.families.facts import LlmFacts, VisualFacts

GIB = 1 << 30
DOWNLOAD_MEMORY = GIB // 4
PACKAGE_DISK = 64 << 20
# Importing torch and compiling, seen on small models: 0.6 GiB in the process, 0.6 GiB in two compilers.
_COMPILE_MEMORY = GIB + GIB // 4
# transformers and Model Optimizer as imported.
_CALIBRATION_BASE = GIB
# What CUDA keeps on the host.
_CUDA_HOST = GIB
_ITEM_BYTES: Mapping[str, float] = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "int4": 0.5,
    "int4_awq": 0.52, "smoothquant": 1, "fp8": 1,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes.

    Attributes:
        model: Of the model's weights as downloaded (LLM only; the tower is small beside it).
        checkpoint: Of the converted checkpoint.
        quantized: Of the quantized one.
        layers: Of the linear layers of the LLM's layers, unquantized, as the checkpoint has them.
        layer: Of one of them.
        convert_memory: Peak anonymous memory of convert and quantize: a few tensors at a time.
        engine_memory: Peak of build_llm, its key-value caches left out (:func:`cache_memory`).
        verify_memory: Peak of verify: reference and engine side by side.
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
    """Estimate from shapes of decoder and encoder, the engine's dtype and its quantization algorithm."""
    llm = stacks[0]
    embedding = llm.vocab_size * llm.hidden_size
    # An encoder has a table of its own and no head.
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


def calibration_memory(size: Sizes, *, on_gpu: bool, split: bool = False) -> int:
    """Peak of a calibration in the host's anonymous memory: copies of one layer, transformers and Model Optimizer.

    Where the CPU runs it, the whole model in float32 as well. For a GPU the weights are mapped: 2.0 GB were measured
    with a model of 7B, where this says 2.9; where it is ``split``, because a GPU does not hold it, the host does.
    """
    model = (size.checkpoint if split else 0) if on_gpu else size.model * 2
    return _CALIBRATION_BASE + size.convert_memory + (_CUDA_HOST if on_gpu else 0) + model


def calibration_seconds(size: Sizes, algorithm: str, samples: int, *, on_gpu: bool) -> float:
    """Of a calibration, to show: importing, reading, passes of all samples, writing.

    On a GPU from one run (7B, 16 samples, an H200 that compilers used too): Model Optimizer's extension compiles in
    51 s, files are read in 5 s and written in 31 s; a sample took 1.6 s, for int4_awq 3.1 s.
    """
    searched = 2 if algorithm == "int4_awq" else 1
    if on_gpu:
        return 55 + size.model * (2.7e-9 + samples * searched * 1.2e-10)
    # A CPU passes a sample at about 2 GB/s; the search tries eleven scales.
    return 20 + samples * size.model / 2e9 * (11 if algorithm == "int4_awq" else 1)


def calibration_gpu_memory(size: Sizes, *, split: bool = False) -> int:
    """Peak on the GPU: the model in the engine's dtype (``split``: one of its layers, tables and tower), copies of a
    layer, activations of one sample.
    """
    model = size.checkpoint - size.layers + size.layer if split else size.checkpoint
    return model + 4 * size.convert_memory


def weight_cores(checkpoint: int) -> int:
    """Cores for convert and quantize: small models leave the others to compilers, more than eight wait for disks."""
    return max(1, min(8, checkpoint // GIB))


def linear_weights(llm: LlmFacts) -> int:
    """Number of weights in the linear layers of all layers of a stack."""
    heads = (2 * llm.num_attention_heads + 2 * llm.num_key_value_heads) * llm.head_size
    attentions, matrices = (2 if llm.cross_attention else 1), (3 if llm.mlp_type == "GatedMLP" else 2)
    layer = llm.hidden_size * (attentions * heads + matrices * llm.intermediate_size)
    return layer * llm.num_hidden_layers


def cache_memory(llm: LlmFacts, dtype: str, sequences: int, slots: int) -> int:
    """Key-value caches of an engine: Inductor copies them once while it compiles."""
    per_slot = 2 * llm.num_key_value_heads * llm.head_size * llm.num_hidden_layers
    return int(per_slot * _ITEM_BYTES[dtype]) * sequences * slots


def visual_memory(visual: VisualFacts) -> int:
    """Peak of build_visual: the tower twice (weights, and the copy that is saved) and the compiler."""
    layer = 4 * visual.hidden_size**2 + 2 * visual.hidden_size * visual.intermediate_size
    return _COMPILE_MEMORY + 2 * 4 * layer * visual.num_hidden_layers
