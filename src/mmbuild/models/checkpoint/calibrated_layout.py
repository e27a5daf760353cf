"""Layout of calibrated checkpoints: tensors of a quantized linear layer, and ``quantization`` in ``config.json``.

Names, shapes and meanings are those of TensorRT-LLM's unified checkpoints as exported by NVIDIA Model Optimizer
(``quantize/layers.py`` and ``models/modeling_utils.py`` of 0.8 to 0.12). A linear layer ``y = x @ w.T`` with
``w [out, in]`` is stored as:

- ``W4A16_AWQ``: ``w[o, i] = values[o, i] * weights_scaling_factor[o, i // group_size]``, on ``x[i] *
  prequant_scaling_factor[i]``. ``weight`` packs two outputs into a byte, ``[out / 2, in]``, the even one in the low
  nibble, in two's complement: the transpose of plain ``W4A16``
  (:func:`mmbuild.models.checkpoint.weight_only.pack`).
- ``W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN``: ``w[o, i] = weight[o, i] * per_channel_scale[0, o]``, on x quantized to
  int8 at run time, each token by its own ``absmax / 127``. Layers whose inputs are split over ranks (``dense`` and
  ``proj``) divide x by ``smoother`` first; for the others smoothing is folded into the preceding norm. Both norms of
  every layer have ``scale_to_int`` [1], float32, which upstream's reader requires. It is the scale for static
  quantization of activations; with a scale per token it is 1 and unused.
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
# The first GPUs with float8 products: Ada (SM 89), then Hopper (SM 90).
FLOAT8_FROM_SM = 89


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor of a quantized linear layer.

    Attributes:
        suffix: Name below the layer's, such as ``weight``.
        dtype: torch dtype by name, or ``model`` for the checkpoint's.
        axes: Meaning of each axis: ``out``, ``out/2``, ``in``, ``in/group`` or ``1``.
        only_where_inputs_split: Whether only layers whose inputs are split over ranks (dense, proj) have it.
    """

    suffix: str
    dtype: str
    axes: tuple[str, ...]
    only_where_inputs_split: bool = False


@dataclass(frozen=True, slots=True)
class ConstantTensor:
    """A tensor with the same value in every checkpoint.

    Attributes:
        suffix: Name below the module's.
        dtype: torch dtype by name.
        shape: Its shape.
        value: Value of all its elements.
    """

    suffix: str
    dtype: str
    shape: tuple[int, ...]
    value: float


@dataclass(frozen=True, slots=True)
class Calibrated:
    """A calibrated quantization algorithm.

    Attributes:
        quant_algo: Its name in ``config.json``.
        tensors: Tensors of each linear layer.
        grouped: Whether groups of inputs share scales.
        norms: Tensors of each norm in a layer, besides its weight.
    """

    quant_algo: str
    tensors: tuple[StoredTensor, ...]
    grouped: bool = False
    norms: tuple[ConstantTensor, ...] = ()


# By name in recipes.
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
    """dtype and shape of one rank's tensors of a linear layer, by suffix (``weight``, ...).

    Args:
        algorithm: The algorithm.
        name: The layer's name, for messages.
        outputs: Number of outputs on this rank.
        inputs: Number of inputs on this rank.
        dtype: The checkpoint's dtype, such as ``float16``.
        group_size: Inputs that share a scale; None if the algorithm has no groups.
        inputs_split: Whether this layer's inputs are split over ranks (dense, proj), for any number of ranks.

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
    """Further tensors of the norm with the weight ``name``; none if ``name`` is not a norm's weight."""
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
    """Number of bytes along the outputs, with two int4 per byte.

    Raises:
        CheckpointError: MM437, the number of outputs is odd.
    """
    if outputs % 2:
        raise CheckpointError(
            f"`{name}` has {outputs} outputs on a rank, which do not pack two to a byte",
            code="MM437",
            hint="choose int8, or an engine.tensor_parallel that leaves an even number",
        )
    return outputs // 2


def groups(name: str, inputs: int, group_size: int | None) -> int:
    """Number of groups of inputs that share a scale.

    Raises:
        CheckpointError: MM543, they do not divide the inputs.
    """
    if group_size is None or group_size < 1 or inputs % group_size:
        raise CheckpointError(
            f"`{name}` has {inputs} inputs on a rank, which groups of {group_size} do not divide",
            code="MM543",
            hint="choose a quantization.group_size, or an engine.tensor_parallel, that divides them",
        )
    return inputs // group_size


def quantization_json(quant_algo: str | None, group_size: int | None) -> dict[str, Any]:
    """``quantization`` in ``config.json``, with only the keys that every version of TensorRT-LLM supports.

    Versions 0.8 to 0.12 raise on unknown keys.
    """
    plain = {"quant_algo": quant_algo, "kv_cache_quant_algo": None}
    if quant_algo is None or quant_algo not in BY_QUANT_ALGO:
        return plain
    grouped = {"group_size": group_size} if BY_QUANT_ALGO[quant_algo].grouped else {}
    prescaled = {"has_zero_point": False, "pre_quant_scale": True} if grouped else {}
    return {**plain, **grouped, **prescaled, "exclude_modules": ["lm_head"]}


# Scales that may contain 0, for weights that are all 0. Activations are divided by the other scales.
_MAY_HOLD_ZEROS = ("weights_scaling_factor", "per_channel_scale", "prequant_scaling_factor")
_SCALES = (*_MAY_HOLD_ZEROS, "smoother", "activation_scaling_factor")


def check_scales(tensors: Mapping[str, Tensor]) -> None:
    """Check the scales of a checkpoint, because invalid ones would silently make every answer wrong.

    Args:
        tensors: Tensors of a checkpoint by name.

    Raises:
        CheckpointError: MM544, a scale is NaN, infinite or negative, all scales of a layer are 0, or a scale that
            activations are divided by is 0.
    """
    for name, tensor in tensors.items():
        layer, _, kind = name.rpartition(".")
        problem = _problem(tensor, kind) if kind in _SCALES else None
        if problem:
            raise CheckpointError(
                f"`{kind}` of layer `{layer}` {problem}",
                code="MM544",
                hint="calibrate again with other samples; if that does not help, do not quantize the model",
            )


def _problem(scales: Tensor, kind: str) -> str | None:
    least, most = float(scales.min()), float(scales.max())
    if not (math.isfinite(least) and math.isfinite(most)):
        return "contains values that are not finite"
    if least < 0:
        return f"contains a negative value, {least:g}"
    if most == 0:
        return "is 0 everywhere"
    if least == 0 and kind not in _MAY_HOLD_ZEROS:
        return "contains a 0, but activations are divided by it"
    return None
