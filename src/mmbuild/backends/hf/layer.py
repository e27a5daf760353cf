"""Quantizes one decoder layer: folds the scales of inputs, then rounds its linear layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mmbuild.backends.hf import arithmetic, fit
from mmbuild.backends.hf.forms import Form
from mmbuild.backends.hf.inputs import Inputs
from mmbuild.backends.hf.sites import Site, sites
from mmbuild.models.families.facts import LlmFacts


@dataclass(frozen=True, slots=True)
class How:
    """How a model's layers are quantized.

    Attributes:
        form: How layers are stored.
        group_size: Inputs of an output that share a scale; None: all.
        dtype: Number format of the model and of scales.
        llm: The decoder.
        device: Where this is computed, ``cpu`` or ``cuda``.
    """

    form: Form
    group_size: int | None
    dtype: torch.dtype
    llm: LlmFacts
    device: str = "cpu"


def quantize_layer(
    layer: Mapping[str, Tensor], how: How, inputs: Mapping[str, Inputs]
) -> Iterator[tuple[str, Tensor]]:
    """Stored tensors of a layer by their names below it, those of linear layers and those that folding changes.

    Args:
        layer: The layer's tensors by their names below it (``mlp.up_proj.weight``), of any floating dtype.
        how: How they are quantized.
        inputs: Statistics by the first linear layer of each site; empty for scales derived from weights alone.
    """
    tensors = {key: tensor.to(how.device).float() for key, tensor in layer.items()}
    inputs = {name: item.to(how.device) for name, item in inputs.items()}
    for site in sites(how.llm):
        if how.form.scaling != "none" and site.foldable(how.llm):
            first = site.linears[0]
            inputs[first] = inputs[first].divided(_scale(tensors, site, how, inputs[first]))
    quantized = {f"{linear}.weight" for site in sites(how.llm) for linear in site.linears}
    for key, tensor in tensors.items():
        if key not in quantized:
            yield key, tensor.to(how.dtype).cpu()
    for site in sites(how.llm):
        yield from _stored(tensors, site, how, inputs.get(site.linears[0]))


def _scale(tensors: dict[str, Tensor], site: Site, how: How, inputs: Inputs) -> Tensor:
    """Scale the inputs of ``site`` in ``tensors``; returns by what they are divided."""
    weights = [tensors[f"{linear}.weight"] for linear in site.linears]
    if how.form.scaling == "awq":
        scales = fit.awq(weights, inputs, how.form, how.group_size, how.dtype)
    else:
        scales = fit.smoothquant(weights, inputs, how.form, how.dtype)
    if site.norm is not None:
        scales = _fold_into_norm(tensors, site.norm, scales, how.dtype)
    else:
        _fold_into_rows(tensors, str(site.rows), scales)
    for linear in site.linears:
        tensors[f"{linear}.weight"] = tensors[f"{linear}.weight"] * scales
    return scales


def _fold_into_norm(tensors: dict[str, Tensor], norm: str, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """Divide a norm by ``scales``; returns the scales by which its stored weight was really divided.

    The stored weight is rounded. What rounding changes goes into the scales, so that the product of norm and next
    layer is as exact as before.
    """
    weight, bias = tensors[f"{norm}.weight"], tensors.get(f"{norm}.bias")
    stored = (weight / scales).to(dtype).float()
    usable = torch.isfinite(stored) & (stored != 0)
    tensors[f"{norm}.weight"] = torch.where(usable, stored, weight)
    exact = torch.where(usable, weight / stored, 1.0)
    if bias is not None:
        tensors[f"{norm}.bias"] = bias / exact
    return exact


def _fold_into_rows(tensors: dict[str, Tensor], linear: str, scales: Tensor) -> None:
    """Divide the outputs of a linear layer by ``scales``."""
    tensors[f"{linear}.weight"] = tensors[f"{linear}.weight"] / scales[:, None]
    if f"{linear}.bias" in tensors:
        tensors[f"{linear}.bias"] = tensors[f"{linear}.bias"] / scales


def _stored(
    tensors: Mapping[str, Tensor], site: Site, how: How, inputs: Inputs | None
) -> Iterator[tuple[str, Tensor]]:
    """The stored tensors of the linear layers of a site."""
    form, shared = how.form, _shared_scale(tensors, site, how)
    for linear in site.linears:
        weight = tensors[f"{linear}.weight"]
        if form.packed and inputs is not None:
            values, scales = fit.weight_only(weight, form, how.group_size, how.dtype, inputs)
        else:
            scales = (
                arithmetic.weight_scales(weight, form, how.group_size, how.dtype)
                if shared is None
                else shared
            )
            values = arithmetic.rounded(weight, scales, form)
        values = values.cpu()
        yield f"{linear}.{form.weight}", arithmetic.pack(values, form.bits) if form.packed else values
        yield f"{linear}.weight_scale", scales.cpu()
        if form.packed:
            yield f"{linear}.weight_shape", torch.tensor(weight.shape, dtype=torch.int64)
        if form.static_inputs:
            assert inputs is not None  # fp8 is always calibrated
            largest = inputs.largest.amax().reshape(1)
            yield f"{linear}.input_scale", arithmetic.scales_of(largest, form, how.dtype).cpu()


def _shared_scale(tensors: Mapping[str, Tensor], site: Site, how: How) -> Tensor | None:
    """The scale that all weights of a site share, because servers run them as one; None if rows have their own."""
    if not how.form.per_tensor:
        return None
    largest = [tensors[f"{linear}.weight"].abs().amax() for linear in site.linears]
    return arithmetic.scales_of(torch.stack(largest).amax().reshape(1), how.form, how.dtype)


def stored_shapes(
    linear: str, shape: tuple[int, ...], how: How, dtype: str
) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Name, dtype and shape of each stored tensor of a linear layer with a weight ``shape`` ``(out, in)``."""
    form, (outputs, columns) = how.form, shape
    if form.packed:
        yield f"{linear}.weight_packed", "int32", (outputs, arithmetic.packed_columns(columns, form.bits))
        yield f"{linear}.weight_shape", "int64", (2,)
    else:
        yield f"{linear}.weight", "float8_e4m3fn" if form.kind == "float" else "int8", shape
    groups = columns // (how.group_size or columns)
    yield f"{linear}.weight_scale", dtype, (1,) if form.per_tensor else (outputs, groups)
    if form.static_inputs:
        yield f"{linear}.input_scale", dtype, (1,)
