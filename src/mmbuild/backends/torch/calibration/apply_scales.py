"""Applies fitted scales: quantizes a model's linear layers with the result of ``fit_scales.py``.

Some layers must share one input scale: q, k and v, which are one layer in a checkpoint; for SmoothQuant all layers
after the same norm, because the norm absorbs the scale. The shared scale is the mean, as in Model Optimizer's
exporters; a shared amax is the maximum.

Arithmetic, in float32 on the whole weight ``w [out, in]`` before it is split over ranks: AWQ divides columns by the
input scale, then each group by its absmax / 7, rounds half to even and clips to [-8, 7]; SmoothQuant likewise with
one group per row, absmax / 127 and [-127, 127]; FP8 divides by absmax / 448 and rounds to float8_e4m3fn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmbuild.backends.torch.calibration.fit_scales import LayerFit, unusable
from mmbuild.models.checkpoint.tensor_table import TensorSpec

INT4_MAX, INT8_MAX, FP8_MAX = 7, 127, 448.0
# Linear layers after each norm, within a layer of LLaMA and OPT.
FED_BY_NORM: Mapping[str, tuple[str, ...]] = {
    "input_layernorm": ("attention.qkv",),
    "post_layernorm": ("mlp.fc", "mlp.gate"),
}
_FED = {fed: norm for norm, layers in FED_BY_NORM.items() for fed in layers}


def layer_of(name: str) -> tuple[str, str]:
    """Split ``transformer.layers.3.attention.qkv.weight`` into ``("transformer.layers.3", "attention.qkv")``."""
    front, number, rest = name.removesuffix(".weight").partition(".layers.")
    index, _, inside = rest.partition(".")
    return f"{front}{number}{index}", inside


def norm_before(name: str) -> str | None:
    """Name of the norm directly before a linear layer; None if there is none."""
    layer, inside = layer_of(name)
    return f"{layer}.{_FED[inside]}" if inside in _FED else None


def source_names(spec: TensorSpec) -> list[str]:
    """The model's names of the linear layers that form a layer of the checkpoint."""
    return [part.source.removesuffix(".weight") for part in spec.parts]


def merged(
    specs: Sequence[TensorSpec], observed: Mapping[str, LayerFit], algorithm: str, *, foldable: bool = True
) -> dict[str, LayerFit]:
    """One :class:`LayerFit` per quantizable weight of the checkpoint, by the weight's name.

    Args:
        specs: Quantizable weights.
        observed: Fits by the model's names of its linear layers.
        algorithm: As in recipes.
        foldable: Whether SmoothQuant's scales can be folded into norms. They cannot if norms come after the residual
            sum, because the residual would be scaled too; layers after such norms are not smoothed.
    """
    together: dict[str, list[TensorSpec]] = {}
    for spec in specs:
        shared = norm_before(spec.name) if algorithm == "smoothquant" else None
        together.setdefault(shared or spec.name, []).append(spec)
    fits = {}
    for key, group in together.items():
        common = _common([observed[name] for spec in group for name in source_names(spec)])
        if common.prescale is not None and key != group[0].name and not foldable:
            common = LayerFit(torch.ones_like(common.prescale), None)
        fits.update({spec.name: common for spec in group})
    return fits


def _common(parts: Sequence[LayerFit]) -> LayerFit:
    prescales = [part.prescale for part in parts if part.prescale is not None]
    largest = [part.input_amax for part in parts if part.input_amax is not None]
    return LayerFit(
        torch.stack(prescales).mean(dim=0) if prescales else None, max(largest) if largest else None
    )


@dataclass(frozen=True, slots=True)
class Quantized:
    """A whole quantized linear layer, before it is split over ranks.

    Attributes:
        values: [out, in]: int8 (int4 in [-8, 7] is not packed yet), or float8_e4m3fn.
        tensors: The other stored tensors by suffix; axes as in :mod:`mmbuild.models.checkpoint.calibrated_layout`.
    """

    values: Tensor
    tensors: Mapping[str, Tensor]


def awq(name: str, weights: Sequence[Tensor], fit: LayerFit, group: int, dtype: torch.dtype) -> Quantized:
    """Quantize to int4 in groups. Scales are rounded to ``dtype`` first, so that values fit the stored scales.

    Raises:
        CalibrationError: MM461, all scales are zero or one is not finite.
    """
    assert fit.prescale is not None
    prescale = _storable(name, fit.prescale.to(dtype))
    weight = torch.cat([part.float() for part in weights]) / prescale.float()
    grouped = weight.reshape(len(weight), -1, group)
    scales = (grouped.abs().amax(dim=-1) / INT4_MAX).to(dtype)
    _check_scales(name, scales)
    values = _divided(grouped, scales.float()[..., None]).clamp(-INT4_MAX - 1, INT4_MAX)
    return Quantized(
        values.to(torch.int8).reshape(weight.shape),
        {"weights_scaling_factor": scales, "prequant_scaling_factor": prescale},
    )


def smoothquant(name: str, weights: Sequence[Tensor], fit: LayerFit) -> Quantized:
    """Quantize to int8 with one scale per row; inputs are to be divided by ``smoother``.

    Raises:
        CalibrationError: MM461, all scales are zero or one is not finite.
    """
    assert fit.prescale is not None
    weight = torch.cat([part.float() for part in weights]) / fit.prescale
    scales = weight.abs().amax(dim=1) / INT8_MAX
    _check_scales(name, scales)
    values = _divided(weight, scales[:, None]).clamp(-INT8_MAX, INT8_MAX).to(torch.int8)
    smoother = 1 / fit.prescale
    return Quantized(values, {"per_channel_scale": scales[None], "smoother": smoother[None]})


def fp8(name: str, weights: Sequence[Tensor], fit: LayerFit) -> Quantized:
    """Quantize to float8 with one scale for the weight and one for the inputs.

    Raises:
        CalibrationError: MM461, the scale is zero or not finite.
    """
    assert fit.input_amax is not None
    weight = torch.cat([part.float() for part in weights])
    scale = weight.abs().amax().reshape(1) / FP8_MAX
    _check_scales(name, scale)
    values = (weight / scale).clamp(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn)
    inputs = torch.tensor([fit.input_amax / FP8_MAX], dtype=torch.float32)
    return Quantized(values, {"weights_scaling_factor": scale, "activation_scaling_factor": inputs})


def _divided(weight: Tensor, scales: Tensor) -> Tensor:
    """Rounded quotient; a row or group of zeros stays zero."""
    return (weight / torch.where(scales > 0, scales, 1.0)).round_()


def _storable(name: str, prescale: Tensor) -> Tensor:
    if not bool(torch.isfinite(prescale).all()) or bool((prescale <= 0).any()):
        raise unusable(
            name, f"the scales of its inputs overflow {str(prescale.dtype).removeprefix('torch.')}"
        )
    return prescale


def _check_scales(name: str, scales: Tensor) -> None:
    if not bool(torch.isfinite(scales).all()):
        raise unusable(name, "the scales of its weight are not finite")
    if not bool((scales > 0).any()):
        raise unusable(name, "all scales of its weight are zero")
