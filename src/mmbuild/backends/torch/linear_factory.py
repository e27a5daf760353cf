"""Which linear layers run a checkpoint's quantization."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from mmbuild.backends.torch import weight_layouts
from mmbuild.backends.torch.calibrated_linear import AwqLinear, Fp8Linear, SmoothQuantLinear
from mmbuild.backends.torch.config import EngineConfig
from mmbuild.backends.torch.linear import Linear, MakeLinear, PlainLinear, RankLinear, RowLinear
from mmbuild.models.checkpoint.calibrated_layout import FLOAT8_FROM_SM
from mmbuild.models.errors import EngineError

_WEIGHT_ONLY = ("W8A16", "W4A16")
_CALIBRATED: Mapping[str, Callable[..., RankLinear]] = {
    "W4A16_AWQ": AwqLinear,
    "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN": SmoothQuantLinear,
    "FP8": Fp8Linear,
}


def linear_maker(config: EngineConfig, layout: weight_layouts.Layout) -> MakeLinear:
    """What makes a stack's linear layers for the checkpoint's quantization.

    Raises:
        EngineError: MM502, no layer here runs that quantization.
    """
    algorithm = config.quant_algo
    if algorithm is None:
        return partial(Linear, config, layout)
    if algorithm in _CALIBRATED:
        return partial(_CALIBRATED[algorithm], config, layout)
    if algorithm not in _WEIGHT_ONLY:
        raise EngineError(
            f"the torch backend has no linear layer for `{algorithm}`",
            code="MM502",
            hint=f"It runs {', '.join(['none', *_WEIGHT_ONLY, *_CALIBRATED])}",
        )
    kind = RowLinear if layout == "rows" else PlainLinear
    return partial(kind, config, algorithm)


def check_target(config: EngineConfig, target: Mapping[str, Any]) -> None:
    """Refuse a GPU that does not multiply what the checkpoint holds.

    Args:
        config: Of the engine.
        target: ``{"device", "sm", ...}``; an SM that is not stated is not judged.

    Raises:
        EngineError: MM545, FP8 below SM 89.
    """
    sm = target.get("sm")
    if config.quant_algo == "FP8" and target["device"] == "cuda" and sm is not None and sm < FLOAT8_FROM_SM:
        raise EngineError(
            f"FP8 needs a GPU of SM {FLOAT8_FROM_SM} or later, and the target is SM {sm}",
            code="MM545",
            hint="Use int4_awq or int8 there, or name another GPU in target",
        )
