"""Forms of a quantized linear layer in a compressed-tensors checkpoint, by the algorithm of the recipe.

Names of tensors, their shapes and the section ``quantization_config`` are those that compressed-tensors 0.17 reads
(``compressors/`` and ``quantization/quant_config.py``; tested with 0.17.1 and 0.20.1). A linear layer ``y = x @ w.T``
with ``w [out, in]`` is stored as:

- ``pack-quantized``: ``weight_packed`` int32 ``[out, ceil(in * bits / 32)]``, the lowest input in the lowest bits,
  each value raised by half of the range; ``weight_scale`` ``[out, groups]``; ``weight_shape`` int64 ``[2]``.
- ``int-quantized``: ``weight`` int8 ``[out, in]``, ``weight_scale`` ``[out, 1]``. The server quantizes each token by
  its own largest magnitude.
- ``float-quantized``: ``weight`` float8_e4m3fn ``[out, in]``, ``weight_scale`` and ``input_scale`` ``[1]``.

Scales have the model's number format, and ``w`` is ``value * scale`` in that format.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mmbuild.models.checkpoint.calibrated_layout import ALGORITHMS

FORMAT_VERSION = "0.17"
"""The oldest release of compressed-tensors that reads these files."""

SAMPLED = 512
"""Inputs of a layer that are kept for fitting, drawn from all tokens of all samples."""

Scaling = Literal["none", "awq", "smoothquant"]


@dataclass(frozen=True, slots=True)
class Form:
    """How the linear layers of one quantization are stored.

    Attributes:
        quant_algo: Its name in ``engine.json``, the same as for other backends.
        format: compressed-tensors' name of the storage.
        bits: Bits of a weight.
        kind: ``int`` or ``float``.
        per_tensor: Whether a whole weight, and all weights that servers fuse with it, have one scale; otherwise each
            output, or each group of inputs of an output, has its own.
        scaling: How inputs are scaled before quantizing; the scales are folded into what comes before the layer.
        inputs: Entry ``input_activations`` of the config; None if inputs are not quantized.
    """

    quant_algo: str
    format: str
    bits: int
    kind: Literal["int", "float"] = "int"
    per_tensor: bool = False
    scaling: Scaling = "none"
    inputs: Mapping[str, Any] | None = None

    @property
    def packed(self) -> bool:
        """Whether values are packed into 32-bit words."""
        return self.format == "pack-quantized"

    @property
    def static_inputs(self) -> bool:
        """Whether the checkpoint holds the scale of a layer's inputs."""
        return self.inputs is not None and not self.inputs["dynamic"]

    @property
    def weight(self) -> str:
        """Name of the tensor that holds a layer's values."""
        return "weight_packed" if self.packed else "weight"


def _inputs(kind: str, strategy: str, *, dynamic: bool) -> dict[str, Any]:
    return {"num_bits": 8, "type": kind, "symmetric": True, "strategy": strategy, "dynamic": dynamic}


FORMS: Mapping[str, Form] = {
    "int8": Form("W8A16", "pack-quantized", 8),
    "int4": Form("W4A16", "pack-quantized", 4),
    "int4_awq": Form(ALGORITHMS["int4_awq"].quant_algo, "pack-quantized", 4, scaling="awq"),
    "smoothquant": Form(
        ALGORITHMS["smoothquant"].quant_algo,
        "int-quantized",
        8,
        scaling="smoothquant",
        inputs=_inputs("int", "token", dynamic=True),
    ),
    "fp8": Form(
        ALGORITHMS["fp8"].quant_algo,
        "float-quantized",
        8,
        kind="float",
        per_tensor=True,
        inputs=_inputs("float", "tensor", dynamic=False),
    ),
}
"""By the recipe's ``engine.quantization.algorithm``; ``none`` has no form."""


def quant_algo(algorithm: str) -> str | None:
    """Name of a recipe's quantization in ``engine.json``; None for ``none``."""
    form = FORMS.get(algorithm)
    return None if form is None else form.quant_algo


def form_of(quant_algo: str | None) -> Form | None:
    """The form with that name in ``engine.json``; None if nothing is quantized."""
    return next((form for form in FORMS.values() if form.quant_algo == quant_algo), None)


def quantization_config(
    form: Form, group_size: int | None, targets: Sequence[str], ignore: Sequence[str]
) -> dict[str, Any]:
    """The section ``quantization_config`` of ``config.json``.

    Args:
        form: How layers are stored.
        group_size: Inputs of an output that share a scale; None: all of them.
        targets: Names or patterns of the quantized modules.
        ignore: Names or patterns of modules that are not quantized.
    """
    strategy = "tensor" if form.per_tensor else "channel" if group_size is None else "group"
    weights = {
        "num_bits": form.bits,
        "type": form.kind,
        "symmetric": True,
        "strategy": strategy,
        "group_size": group_size,
        "dynamic": False,
    }
    group = {
        "targets": list(targets),
        "weights": weights,
        "input_activations": None if form.inputs is None else dict(form.inputs),
        "output_activations": None,
        "format": form.format,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": form.format,
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": list(ignore),
        "kv_cache_scheme": None,
    }
