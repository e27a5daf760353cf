"""Model Optimizer's side: a model that computes with rounded weights and inputs ("fake quantization")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.real_decoder.forms import Form

_LEFT_ALONE = ("*lm_head*", "*vision_tower*", "*multi_modal_projector*")


def quantize(model: nn.Module, form: Form, samples: Sequence[Mapping[str, Tensor]]) -> nn.Module:
    """The model, quantized in place.

    Args:
        model: transformers' LLaVA.
        form: The format; ``optimizer`` is there.
        samples: Arguments of the model that it is fitted on.
    """
    from modelopt.torch import quantization

    assert form.optimizer is not None
    weights, inputs, algorithm = form.optimizer
    config = {
        "quant_cfg": [
            {"quantizer_name": "*", "enable": False},
            _entry("*weight_quantizer", weights),
            _entry("*input_quantizer", inputs),
            *({"quantizer_name": name, "enable": False} for name in _LEFT_ALONE),
            {"quantizer_name": "*", "parent_class": "nn.Embedding", "enable": False},
        ],
        "algorithm": algorithm,
    }

    def run(quantized: nn.Module) -> None:
        for sample in samples:
            quantized(**sample)

    with torch.no_grad():
        done: nn.Module = quantization.quantize(model, config, run)
    if form.run is not None:
        _replace_input_quantizers(done, form.run)
    return done


def _replace_input_quantizers(model: nn.Module, how: Mapping[str, Any]) -> None:
    """Quantize inputs in another way; by what they are divided before, which was fitted, stays."""
    from modelopt.torch.quantization.config import QuantizerAttributeConfig

    for name, quantizer in model.named_modules():
        if name.endswith("input_quantizer") and quantizer.is_enabled:
            quantizer.reset_amax()
            quantizer.set_from_attribute_config(QuantizerAttributeConfig(**how))


def _entry(name: str, how: Mapping[str, Any]) -> dict[str, Any]:
    return (
        {"quantizer_name": name, "enable": False}
        if how.get("enable") is False
        else {
            "quantizer_name": name,
            "cfg": dict(how),
        }
    )


def quantized_layers(model: nn.Module) -> int:
    """How many layers have a weight quantizer that is on."""
    return sum(
        bool(module.is_enabled) for name, module in model.named_modules() if name.endswith("weight_quantizer")
    )
