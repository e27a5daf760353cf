"""Statistics of the inputs of linear layers, measured while the whole model runs on calibration samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmbuild.backends.hf.forms import SAMPLED
from mmbuild.models.calibration_data.samples import CalibrationError
from mmbuild.models.checkpoint.weight_only_fit import Moments


@dataclass(frozen=True, slots=True)
class Inputs:
    """Inputs of one linear layer.

    Attributes:
        moments: Means and variances.
        magnitude: Mean magnitudes, float32 [in].
        largest: Largest magnitudes, float32 [in].
        rows: A random sample of inputs, float32 [SAMPLED or fewer, in].
    """

    moments: Moments
    magnitude: Tensor
    largest: Tensor
    rows: Tensor

    def to(self, device: str) -> Inputs:
        """The same on ``device``."""
        moments = Moments(self.moments.mean.to(device), self.moments.variance.to(device))
        return Inputs(moments, *(item.to(device) for item in (self.magnitude, self.largest, self.rows)))

    def divided(self, scales: Tensor) -> Inputs:
        """The same for inputs that are divided by ``scales`` [in]."""
        moments = Moments(self.moments.mean / scales, self.moments.variance / scales.square())
        return Inputs(moments, self.magnitude / scales, self.largest / scales, self.rows / scales)


class _Watch:
    """Accumulates the statistics of one layer; sums are float64."""

    def __init__(self, name: str, linear: nn.Linear) -> None:
        shape, device = linear.in_features, linear.weight.device
        self.name, self.count = name, 0
        self.first, self.second, self.magnitude = torch.zeros(3, shape, dtype=torch.float64, device=device)
        self.largest = torch.zeros(shape, device=device)
        # The inputs with the largest of equally distributed numbers are a sample without replacement.
        self.drawn, self.rows = torch.empty(0), torch.empty(0, shape)
        self.random = torch.Generator().manual_seed(0)

    def __call__(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        rows = inputs[0].detach().flatten(0, -2)
        wide = rows.double()
        if not bool(torch.isfinite(wide).all()):
            raise unusable(self.name, "its inputs contain NaN or infinity")
        self.count += len(rows)
        self.first += wide.sum(dim=0)
        self.second += wide.square().sum(dim=0)
        self.magnitude += wide.abs().sum(dim=0)
        self.largest = torch.maximum(self.largest, rows.abs().amax(dim=0).float())
        drawn = torch.cat([self.drawn, torch.rand(len(rows), generator=self.random)])
        kept = drawn.topk(min(SAMPLED, len(drawn))).indices
        self.drawn, self.rows = drawn[kept], torch.cat([self.rows, rows.float().cpu()])[kept]

    def result(self) -> Inputs:
        if not bool(self.second.any()):
            raise unusable(self.name, "its inputs are zero in every sample, so nothing can be fitted")
        mean = self.first / self.count
        variance = (self.second / self.count - mean.square()).clamp_min(0)
        return Inputs(
            Moments(mean.float().cpu(), variance.float().cpu()),
            (self.magnitude / self.count).float().cpu(),
            self.largest.cpu(),
            self.rows,
        )


def measure(
    linears: Mapping[str, nn.Linear], forward: Callable[[], None], names: Sequence[str]
) -> dict[str, Inputs]:
    """Statistics of the inputs of the layers that end with one of ``names``, by the layers' names.

    Args:
        linears: Layers by name; not modified.
        forward: Runs the whole model on all samples; called once.
        names: Ends of names, such as ``self_attn.q_proj``: one layer of each site is enough.

    Raises:
        CalibrationError: MM461, a layer's inputs are not finite, or all zero.
    """
    watched = {name: linear for name, linear in linears.items() if name.endswith(tuple(names))}
    watches = {name: _Watch(name, linear) for name, linear in watched.items()}
    handles = [linear.register_forward_pre_hook(watches[name]) for name, linear in watched.items()]
    try:
        forward()
    finally:
        for handle in handles:
            handle.remove()
    return {name: watch.result() for name, watch in watches.items()}


def unusable(name: str, reason: str) -> CalibrationError:
    """The error for a layer that cannot be fitted."""
    return CalibrationError(
        f"calibration of layer `{name}` failed: {reason}",
        code="MM461",
        hint="check the model's weights and the calibration data; engine.dtype bfloat16 rules out overflow",
    )
