"""Weight-only rounding of linear layers: to examine with, and to train with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = {"int8": 128, "int4": 8}
DECODER_LINEARS = (
    "q_proj", "k_proj", "v_proj", "o_proj", "out_proj",  # attention of LLaMA, OPT
    "gate_proj", "up_proj", "down_proj", "fc1", "fc2",  # feed-forward of LLaMA, OPT
)  # fmt: skip


def rounded(weight: Tensor, levels: int) -> Tensor:
    """``weight`` [out, in] rounded as the weight-only engine stores it: per output channel,
    scale = absmax / levels, half away from zero, clipped to [-levels, levels - 1]."""
    scale = weight.abs().amax(dim=1, keepdim=True).clamp_min(1e-8) / levels
    ratio = weight / scale
    return torch.clamp(torch.sign(ratio) * torch.floor(ratio.abs() + 0.5), -levels, levels - 1) * scale


def decoder_linears(model: nn.Module, part: str = "language_model") -> Iterator[nn.Linear]:
    """The linear layers that weight-only quantization rounds: those inside the submodule called ``part``."""
    for name, module in model.named_modules():
        path = name.split(".")
        if part in path[:-1] and path[-1] in DECODER_LINEARS:
            yield module


def round_in_place(linears: Iterator[nn.Linear], levels: int) -> None:
    """Round the weights of ``linears``, computing in float32 and keeping their dtype."""
    for linear in linears:
        linear.weight.data = rounded(linear.weight.data.float(), levels).to(linear.weight.dtype)


@contextmanager
def straight_through(linears: Iterator[nn.Linear], levels: int) -> Iterator[None]:
    """Forward with rounded weights, backward as if they were not."""
    changed = list(linears)
    for linear in changed:
        linear.forward = _rounded_forward(linear, levels)
    try:
        yield
    finally:
        for linear in changed:
            del linear.forward


def _rounded_forward(linear: nn.Linear, levels: int) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        weight = linear.weight
        return F.linear(x, weight + (rounded(weight, levels) - weight).detach(), linear.bias)

    return forward
