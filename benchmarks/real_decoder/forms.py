"""What is compared: for each format of mmbuild's, the same format of Model Optimizer and llm-compressor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

OTHERS = ("lm_head", "re:.*vision_tower.*", "re:.*multi_modal_projector.*")
"""llm-compressor's names of what nobody quantizes."""

_CHANNEL: Mapping[str, Any] = {"strategy": "channel"}
_GROUP: Mapping[str, Any] = {"strategy": "group", "group_size": 64}
_INT8_TOKENS = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}
_FLOAT8 = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "tensor", "dynamic": False}


@dataclass(frozen=True, slots=True)
class Form:
    """A format in three tools' words.

    Attributes:
        recipe: mmbuild's ``engine.quantization``; fitted ones get ``calibration``.
        fitted: Whether mmbuild's recipe has calibration data.
        optimizer: Model Optimizer's quantizers of weights and of inputs, and its algorithm; None: not compared.
        run: Model Optimizer's quantizers of inputs once scales are fitted; None: as they were while fitting.
        weights: llm-compressor's ``QuantizationArgs`` of weights.
        inputs: Those of inputs; None: not quantized.
        modifier: llm-compressor's modifier that goes before quantizing, or instead of it: ``awq``, ``smoothquant``,
            ``gptq``; None: rounding to nearest.
    """

    recipe: Mapping[str, Any]
    fitted: bool
    optimizer: tuple[Mapping[str, Any], Mapping[str, Any], Any] | None
    weights: Mapping[str, Any]
    inputs: Mapping[str, Any] | None = None
    modifier: str | None = None
    run: Mapping[str, Any] | None = None


def _int(bits: int, scales: Mapping[str, Any]) -> dict[str, Any]:
    return {"num_bits": bits, "type": "int", "symmetric": True, **scales}


_OFF: Mapping[str, Any] = {"enable": False}
_PER_OUTPUT: Mapping[str, Any] = {"axis": 0}
_BLOCKS: Mapping[str, Any] = {"block_sizes": {-1: 64}}

FORMS: Mapping[str, Form] = {
    "int8": Form(
        {"algorithm": "int8"}, False, ({"num_bits": 8, **_PER_OUTPUT}, _OFF, "max"), _int(8, _CHANNEL)
    ),
    "int4": Form(
        {"algorithm": "int4"}, False, ({"num_bits": 4, **_PER_OUTPUT}, _OFF, "max"), _int(4, _CHANNEL)
    ),
    "int4 g64": Form(
        {"algorithm": "int4", "group_size": 64},
        False,
        ({"num_bits": 4, **_BLOCKS}, _OFF, "max"),
        _int(4, _GROUP),
    ),
    "int4_awq g64": Form(
        {"algorithm": "int4_awq", "group_size": 64},
        True,
        ({"num_bits": 4, **_BLOCKS}, _OFF, {"method": "awq_lite", "alpha_step": 0.1}),
        _int(4, _GROUP),
        modifier="awq",
    ),
    "smoothquant": Form(
        {"algorithm": "smoothquant"},
        True,
        (
            {"num_bits": 8, **_PER_OUTPUT},
            {"num_bits": 8, "axis": None},
            {"method": "smoothquant", "alpha": 0.5},
        ),
        _int(8, _CHANNEL),
        _INT8_TOKENS,
        "smoothquant",
        # Its SmoothQuant fits inputs with one scale only; per token as in the format of the others.
        {"num_bits": 8, "type": "dynamic", "block_sizes": {-1: None}},
    ),
    "fp8": Form(
        {"algorithm": "fp8"},
        True,
        ({"num_bits": (4, 3), "axis": None}, {"num_bits": (4, 3), "axis": None}, "max"),
        _FLOAT8,
        _FLOAT8,
    ),
    "int8 fitted": Form({"algorithm": "int8"}, True, None, _int(8, _CHANNEL), modifier="gptq"),
    "int4 fitted": Form({"algorithm": "int4"}, True, None, _int(4, _CHANNEL), modifier="gptq"),
    "int4 g64 fitted": Form(
        {"algorithm": "int4", "group_size": 64}, True, None, _int(4, _GROUP), modifier="gptq"
    ),
}
"""By the name in the table. mmbuild's fitted int8 and int4 choose clipping scales; GPTQ, which is put beside them,
also chooses how each weight is rounded, in the same format."""
