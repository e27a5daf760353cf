"""Quantized weights and adapters are recognized by the names of their tensors, whatever config.json says."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmbuild.base.safetensors_header import read_tensor_header
from mmbuild.models.errors import ModelFilesError
from mmbuild.models.validation.weight_names import require_plain

MODELS = Path(__file__).parents[3] / "examples" / "models"
LAYER = "language_model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    "name",
    [
        *(
            "qweight",
            "qzeros",
            "g_idx",
            "weight_packed",
            "weight_scale",
            "weight_scale_inv",
            "weight_zero_point",
        ),
        *("input_scale", "pre_quant_scale", "weight_quantizer._amax", "SCB", "weight.absmax"),
        *("weight.quant_map", "weight.quant_state.bitsandbytes__nf4"),
    ],
)
def test_parts_of_quantized_layers_are_called_that(name: str) -> None:
    with pytest.raises(ModelFilesError, match="already quantized") as error:
        require_plain({"a": ["lm_head.weight"], "b": [f"{LAYER}.weight", f"{LAYER}.{name}"]})
    assert error.value.code == "MM710"
    assert f"`b` holds `{LAYER}.{name}`" in error.value.message


@pytest.mark.parametrize(
    "name",
    ["base_layer.weight", "lora_A.weight", "lora_B.default.weight", "lora_magnitude_vector.default.weight"],
)
def test_parts_of_adapters_are_called_that(name: str) -> None:
    with pytest.raises(ModelFilesError, match="adapter that is not merged") as error:
        require_plain({"a": [f"{LAYER}.{name}"]})
    assert error.value.code == "MM734"


def test_names_of_ordinary_models_are_neither() -> None:
    files = sorted(MODELS.rglob("*.safetensors"))
    assert len(files) >= 5
    for file in files:
        require_plain({file.name: read_tensor_header(file)})
    # as in other towers and decoders
    ordinary = [
        "logit_scale",
        "layer_scale1.lambda1",
        "embed_scale",
        "attn.input_scales.weight",
        "ls1.gamma",
        "scale",
    ]
    require_plain({"a": [f"x.{name}" for name in ordinary]})
