"""From what was fitted for a model's linear layers to what their quantized form stores.

Which layers must have one scale of their inputs in common: q, k and v, which a checkpoint holds as one; for
SmoothQuant all layers that one norm feeds, because the norm takes the scale. Such a scale is the mean of theirs, as
Model Optimizer's own exporters take it; a common largest magnitude is the largest.

Arithmetic, in float32 on the whole weight ``w [out, in]`` before ranks cut it: AWQ divides columns by the scale of
the inputs, then each group by its absmax / 7, rounds half to even and clips to [-8, 7]; SmoothQuant likewise with one
group in a row, absmax / 127 and [-127, 127]; FP8 divides by the largest magnitude / 448 and rounds to float8_e4m3fn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmbuild.backends.torch.calibration.modelopt import LayerFit, unusable
from mmbuild.models.checkpoint.tensor_table import TensorSpec

INT4_MAX, INT8_MAX, FP8_MAX = 7, 127, 448.0
# Layers that a norm feeds, within a layer of LLaMA and OPT.
FED_BY_NORM: Mapping[str, tuple[str, ...]] = {
    "input_layernorm": ("attention.qkv",),
    "post_layernorm": ("mlp.fc", "mlp.gate"),
}
_FED = {fed: norm for norm, layers in FED_BY_NORM.items() for fed in layers}


def layer_of(name: str) -> tuple[str, str]:
    """``transformer.layers.3.attention.qkv.weight`` to ``("transformer.layers.3", "attention.qkv")``."""
    front, number, rest = name.removesuffix(".weight").partition(".layers.")
    index, _, inside = rest.partition(".")
    return f"{front}{number}{index}", inside


def norm_before(name: str) -> str | None:
    """Name of the norm that feeds a linear layer's weight; None where none does."""
    layer, inside = layer_of(name)
    return f"{layer}.{_FED[inside]}" if inside in _FED else None


def source_names(spec: TensorSpec) -> list[str]:
    """The model's own names of the linear layers that a checkpoint's is made of."""
    return [part.source.removesuffix(".weight") for part in spec.parts]


def merged(
    specs: Sequence[TensorSpec], observed: Mapping[str, LayerFit], algorithm: str, *, foldable: bool = True
) -> dict[str, LayerFit]:
    """One :class:`LayerFit` for each quantizable weight of the checkpoint, by the weight's name.

    Args:
        specs: Quantizable weights.
        observed: By the model's own names of its linear layers.
        algorithm: As in recipes.
        foldable: Whether SmoothQuant's scales can go into norms. They cannot where a norm follows the sum (the
            residual would take them too); layers that such a norm feeds are left unsmoothed.
    """
    together: dict[str, list[TensorSpec]] = {}
    for spec in specs:
        shared = norm_before(spec.name) if algorithm == "smoothquant" else None
        together.setdefault(shared or spec.name, []).append(spec)
    found = {}
    for key, group in together.items():
        common = _common([observed[name] for spec in group for name in source_names(spec)])
        if common.prescale is not None and key != group[0].name and not foldable:
            common = LayerFit(torch.ones_like(common.prescale), None)
        found.update({spec.name: common for spec in group})
    return found


def _common(parts: Sequence[LayerFit]) -> LayerFit:
    prescales = [part.prescale for part in parts if part.prescale is not None]
    largest = [part.input_amax for part in parts if part.input_amax is not None]
    return LayerFit(
        torch.stack(prescales).mean(dim=0) if prescales else None, max(largest) if largest else None
    )


@dataclass(frozen=True, slots=True)
class Quantized:
    """A whole linear layer, before ranks cut it.

    Attributes:
        values: [out, in]: int8 (int4 in [-8, 7] not packed yet), or float8_e4m3fn.
        tensors: What is stored beside them, by suffix; axes as :mod:`mmbuild.models.checkpoint.calibrated_layout` has
            them.
    """

    values: Tensor
    tensors: Mapping[str, Tensor]


def awq(name: str, weights: Sequence[Tensor], found: LayerFit, group: int, dtype: torch.dtype) -> Quantized:
    """int4 in groups. Scales are rounded to ``dtype`` first, so that values are fitted to those that are stored.

    Raises:
        CalibrationError: MM461, all scales are zero or one is not finite.
    """
    assert found.prescale is not None
    prescale = _storable(name, found.prescale.to(dtype))
    weight = torch.cat([part.float() for part in weights]) / prescale.float()
    grouped = weight.reshape(len(weight), -1, group)
    scales = (grouped.abs().amax(dim=-1) / INT4_MAX).to(dtype)
    _refuse_broken(name, scales)
    values = _divided(grouped, scales.float()[..., None]).clamp(-INT4_MAX - 1, INT4_MAX)
    return Quantized(
        values.to(torch.int8).reshape(weight.shape),
        {"weights_scaling_factor": scales, "prequant_scaling_factor": prescale},
    )


def smoothquant(name: str, weights: Sequence[Tensor], found: LayerFit) -> Quantized:
    """int8 with one scale a row; ``smoother`` is what inputs are divided by, wherever that happens.

    Raises:
        CalibrationError: MM461, all scales are zero or one is not finite.
    """
    assert found.prescale is not None
    weight = torch.cat([part.float() for part in weights]) / found.prescale
    scales = weight.abs().amax(dim=1) / INT8_MAX
    _refuse_broken(name, scales)
    values = _divided(weight, scales[:, None]).clamp(-INT8_MAX, INT8_MAX).to(torch.int8)
    smoother = 1 / found.prescale
    return Quantized(values, {"per_channel_scale": scales[None], "smoother": smoother[None]})


def fp8(name: str, weights: Sequence[Tensor], found: LayerFit) -> Quantized:
    """float8 with one scale for the weight and one for the inputs.

    Raises:
        CalibrationError: MM461, the scale is zero or not finite.
    """
    assert found.input_amax is not None
    weight = torch.cat([part.float() for part in weights])
    scale = weight.abs().amax().reshape(1) / FP8_MAX
    _refuse_broken(name, scale)
    values = (weight / scale).clamp(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn)
    inputs = torch.tensor([found.input_amax / FP8_MAX], dtype=torch.float32)
    return Quantized(values, {"weights_scaling_factor": scale, "activation_scaling_factor": inputs})


def _divided(weight: Tensor, scales: Tensor) -> Tensor:
    """Rounded quotient; a row or group of zeros stays zero."""
    return (weight / torch.where(scales > 0, scales, 1.0)).round_()


def _storable(name: str, prescale: Tensor) -> Tensor:
    if not bool(torch.isfinite(prescale).all()) or bool((prescale <= 0).any()):
        raise unusable(
            name, f"scales of its inputs leave the range of {str(prescale.dtype).removeprefix('torch.')}"
        )
    return prescale


def _refuse_broken(name: str, scales: Tensor) -> None:
    if not bool(torch.isfinite(scales).all()):
        raise unusable(name, "scales of its weight are not finite")
    if not bool((scales > 0).any()):
        raise unusable(name, "all scales of its weight are zero")
