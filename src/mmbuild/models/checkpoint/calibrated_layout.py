"""Layout of calibrated checkpoints: what a quantized linear layer stores, and ``config.json``'s ``quantization``.

Names, shapes and meanings are those that TensorRT-LLM's unified checkpoints have when NVIDIA Model Optimizer exported
them (``quantize/layers.py`` and ``models/modeling_utils.py`` of 0.8 to 0.12). A linear layer ``y = x @ w.T`` of
``w [out, in]`` stands for:

- ``W4A16_AWQ``: ``w[o, i] = values[o, i] * weights_scaling_factor[o, i // group_size]``, on ``x[i] *
  prequant_scaling_factor[i]``. ``weight`` holds two outputs in a byte, ``[out / 2, in]``, the even one in the low
  nibble, two's complement: the transpose of plain ``W4A16``, made by
  :func:`mmbuild.models.checkpoint.weight_only.pack`.
- ``W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN``: ``w[o, i] = weight[o, i] * per_channel_scale[0, o]``, on x quantized to
  int8 at run time, each token by its own ``absmax / 127``. Layers whose inputs are split over ranks (``dense`` and
  ``proj``) divide x by ``smoother`` first; for the others smoothing is folded into the norm before them. Both norms
  of every layer hold ``scale_to_int`` [1], float32, which upstream's reader requires. It is the scale of activations
  that are quantized by one constant; where each token has its own, it is 1 and nothing multiplies by it.
- ``FP8``: ``w[o, i] = weight[o, i] * weights_scaling_factor``, on x divided by ``activation_scaling_factor`` and
  rounded to float8_e4m3fn (at most 448), whose products are multiplied by both factors.

Biases, norms, embeddings and the head stay in the model's dtype.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmbuild.models.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

MODEL_DTYPE = "model"
# The first GPUs that multiply float8: Ada (SM 89), then Hopper (SM 90).
FLOAT8_FROM_SM = 89


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor of a quantized linear layer.

    Attributes:
        suffix: Its name below the layer's: ``weight``.
        dtype: torch's name of its dtype, or ``model`` for the checkpoint's.
        axes: What each axis runs over: ``out``, ``out/2``, ``in``, ``in/group`` or ``1``.
        only_where_inputs_split: Whether only layers have it whose inputs are split over ranks (dense, proj).
    """

    suffix: str
    dtype: str
    axes: tuple[str, ...]
    only_where_inputs_split: bool = False


@dataclass(frozen=True, slots=True)
class ConstantTensor:
    """A tensor that holds one value in every checkpoint.

    Attributes:
        suffix: Its name below the module's.
        dtype: torch's name of its dtype.
        shape: Its shape.
        value: What it is filled with.
    """

    suffix: str
    dtype: str
    shape: tuple[int, ...]
    value: float


@dataclass(frozen=True, slots=True)
class Calibrated:
    """An algorithm.

    Attributes:
        quant_algo: Its name in ``config.json``.
        tensors: What each linear layer stores.
        grouped: Whether inputs share scales by groups.
        norms: What each norm of a layer stores besides its weight.
    """

    quant_algo: str
    tensors: tuple[StoredTensor, ...]
    grouped: bool = False
    norms: tuple[ConstantTensor, ...] = ()


# By the recipe's name of the algorithm.
ALGORITHMS: Mapping[str, Calibrated] = {
    "int4_awq": Calibrated(
        "W4A16_AWQ",
        (
            StoredTensor("weight", "int8", ("out/2", "in")),
            StoredTensor("weights_scaling_factor", MODEL_DTYPE, ("out", "in/group")),
            StoredTensor("prequant_scaling_factor", MODEL_DTYPE, ("in",)),
        ),
        grouped=True,
    ),
    "smoothquant": Calibrated(
        "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN",
        (
            StoredTensor("weight", "int8", ("out", "in")),
            StoredTensor("per_channel_scale", "float32", ("1", "out")),
            StoredTensor("smoother", "float32", ("1", "in"), only_where_inputs_split=True),
        ),
        norms=(ConstantTensor("scale_to_int", "float32", (1,), 1.0),),
    ),
    "fp8": Calibrated(
        "FP8",
        (
            StoredTensor("weight", "float8_e4m3fn", ("out", "in")),
            StoredTensor("weights_scaling_factor", "float32", ("1",)),
            StoredTensor("activation_scaling_factor", "float32", ("1",)),
        ),
    ),
}
BY_QUANT_ALGO: Mapping[str, Calibrated] = {how.quant_algo: how for how in ALGORITHMS.values()}


def stored_tensors(
    algorithm: Calibrated,
    name: str,
    outputs: int,
    inputs: int,
    *,
    dtype: str,
    group_size: int | None,
    inputs_split: bool,
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """dtype and shape of what one rank stores of a linear layer, by suffix (``weight``, ...).

    Args:
        algorithm: Which.
        name: The layer's name, for messages.
        outputs: Of this rank.
        inputs: Of this rank.
        dtype: The checkpoint's, ``float16`` for one.
        group_size: Inputs that share a scale; None where the algorithm has no groups.
        inputs_split: Whether ranks split the layer's inputs (dense, proj), at any number of ranks.

    Raises:
        CheckpointError: MM437, an odd number of outputs cannot be packed; MM543, groups do not divide the inputs.
    """
    sizes = {axis: size_of(axis, name, outputs, inputs, group_size) for axis in _axes(algorithm)}
    return {
        stored.suffix: (
            dtype if stored.dtype == MODEL_DTYPE else stored.dtype,
            tuple(sizes[axis] for axis in stored.axes),
        )
        for stored in algorithm.tensors
        if inputs_split or not stored.only_where_inputs_split
    }


_NORMS = ("input_layernorm.weight", "post_layernorm.weight")


def norm_tensors(algorithm: Calibrated, name: str) -> tuple[ConstantTensor, ...]:
    """What the norm whose weight is called ``name`` stores besides it; nothing where ``name`` is another tensor."""
    return algorithm.norms if name.endswith(_NORMS) else ()


def _axes(algorithm: Calibrated) -> set[str]:
    return {axis for stored in algorithm.tensors for axis in stored.axes}


def size_of(axis: str, name: str, outputs: int, inputs: int, group_size: int | None) -> int:
    """Length of an axis of :class:`StoredTensor`.

    Raises:
        CheckpointError: As :func:`stored_tensors`.
    """
    if axis == "1":
        return 1
    if axis == "out/2":
        return packed_outputs(name, outputs)
    if axis == "in/group":
        return groups(name, inputs, group_size)
    return {"out": outputs, "in": inputs}[axis]


def packed_outputs(name: str, outputs: int) -> int:
    """Bytes along the outputs, two int4 in each.

    Raises:
        CheckpointError: MM437, an output is left over.
    """
    if outputs % 2:
        raise CheckpointError(
            f"`{name}` has {outputs} outputs on a rank, which do not pack two to a byte",
            code="MM437",
            hint="Choose int8, or an engine.tensor_parallel that leaves an even number",
        )
    return outputs // 2


def groups(name: str, inputs: int, group_size: int | None) -> int:
    """Groups of inputs that share a scale.

    Raises:
        CheckpointError: MM543, they do not divide the inputs.
    """
    if group_size is None or group_size < 1 or inputs % group_size:
        raise CheckpointError(
            f"`{name}` has {inputs} inputs on a rank, which groups of {group_size} do not divide",
            code="MM543",
            hint="Choose a quantization.group_size, or an engine.tensor_parallel, that divides them",
        )
    return inputs // group_size


def quantization_json(quant_algo: str | None, group_size: int | None) -> dict[str, Any]:
    """``quantization`` of ``config.json``: keys that every version of TensorRT-LLM knows, and no others.

    0.8 to 0.12 raise on keys that they do not know.
    """
    plain = {"quant_algo": quant_algo, "kv_cache_quant_algo": None}
    if quant_algo is None or quant_algo not in BY_QUANT_ALGO:
        return plain
    grouped = {"group_size": group_size} if BY_QUANT_ALGO[quant_algo].grouped else {}
    prescaled = {"has_zero_point": False, "pre_quant_scale": True} if grouped else {}
    return {**plain, **grouped, **prescaled, "exclude_modules": ["lm_head"]}


# Scales that may be 0 somewhere: those of weights that are all 0. By the others, activations are divided.
_MAY_HOLD_ZEROS = ("weights_scaling_factor", "per_channel_scale", "prequant_scaling_factor")
_SCALES = (*_MAY_HOLD_ZEROS, "smoother", "activation_scaling_factor")


def check_scales(tensors: Mapping[str, Tensor]) -> None:
    """Refuse what calibration cannot have meant, before it silently makes every answer wrong.

    Args:
        tensors: Of a checkpoint, by name.

    Raises:
        CheckpointError: MM544, a scale is NaN, infinite or negative, all of a layer's are 0, or one is 0 that
            activations are divided by.
    """
    for name, tensor in tensors.items():
        layer, _, kind = name.rpartition(".")
        problem = _problem(tensor, kind) if kind in _SCALES else None
        if problem:
            raise CheckpointError(
                f"`{kind}` of layer `{layer}` {problem}",
                code="MM544",
                hint="Calibrate again with other samples; if it stays, leave the model unquantized",
            )


def _problem(scales: Tensor, kind: str) -> str | None:
    least, most = float(scales.min()), float(scales.max())
    if not (math.isfinite(least) and math.isfinite(most)):
        return "holds values that are not finite"
    if least < 0:
        return f"holds a negative value, {least:g}"
    if most == 0:
        return "is 0 everywhere"
    if least == 0 and kind not in _MAY_HOLD_ZEROS:
        return "holds a 0, and activations are divided by it"
    return None
