"""Names of tensors that only other tools' forms of a model have: quantized weights, adapters that are not merged."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from mmbuild.models.errors import ModelFilesError

# What quantizers store next to, or instead of, a layer's `weight`.
_QUANTIZED = re.compile(
    r"\.(qweight|qzeros|g_idx"  # AWQ, GPTQ
    r"|weight_packed|weight_scale|weight_scale_inv|weight_zero_point|input_scale"  # compressed-tensors, FP8
    r"|pre_quant_scale|weight_quantizer\..+|input_quantizer\..+"  # Model Optimizer
    r"|SCB|weight\.(absmax|nested_absmax|quant_map|nested_quant_map|quant_state\..+))$"  # bitsandbytes
)
_ADAPTER = re.compile(r"\.(lora_[AB]|lora_embedding_[AB]|lora_magnitude_vector|base_layer|modules_to_save)\.")


def require_plain(tensors: Mapping[str, Iterable[str]]) -> None:
    """Check that no tensor is a part of a quantized layer or of an adapter.

    Args:
        tensors: Names of the tensors of each file.

    Raises:
        ModelFilesError: MM710, the weights are quantized; MM734, they contain an adapter that is not merged.
    """
    named = [(file, name) for file, names in sorted(tensors.items()) for name in names]
    quantized = next((pair for pair in named if _QUANTIZED.search(pair[1])), None)
    if quantized is not None:
        raise ModelFilesError(
            f"the weights are already quantized: `{quantized[0]}` holds `{quantized[1]}`",
            code="MM710",
            hint="use the model's unquantized weights (float32, float16 or bfloat16); mmbuild quantizes it as "
            "`engine.quantization` says",
        )
    adapter = next((pair for pair in named if _ADAPTER.search(pair[1])), None)
    if adapter is not None:
        raise ModelFilesError(
            f"the weights contain an adapter that is not merged: `{adapter[0]}` holds `{adapter[1]}`",
            code="MM734",
            hint="merge it (`merge_and_unload` of PEFT), save the model, and set model.source to the result",
        )
