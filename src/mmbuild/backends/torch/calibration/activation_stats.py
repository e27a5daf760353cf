"""Measures means and variances of the inputs of linear layers while the model runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from mmbuild.backends.torch.calibration.apply_scales import source_names
from mmbuild.backends.torch.calibration.fit_scales import unusable
from mmbuild.models.checkpoint.tensor_table import TensorSpec
from mmbuild.models.checkpoint.weight_only_fit import Moments


class _Sums:
    """Accumulates count, sum and sum of squares of one layer's inputs, float64."""

    def __init__(self, name: str, linear: nn.Linear) -> None:
        self.name, self.count = name, 0
        self.first, self.second = torch.zeros(
            2, linear.in_features, dtype=torch.float64, device=linear.weight.device
        )

    def __call__(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        rows = inputs[0].detach().flatten(0, -2).double()
        self.count += len(rows)
        self.first += rows.sum(dim=0)
        self.second += rows.square().sum(dim=0)
        if not bool(torch.isfinite(self.second).all()):
            raise unusable(self.name, "its inputs contain NaN or infinity")

    def moments(self) -> Moments:
        if not bool(self.second.any()):
            raise unusable(self.name, "its inputs are zero in every sample, so nothing can be fitted")
        mean = self.first / self.count
        variance = (self.second / self.count - mean.square()).clamp_min(0)
        return Moments(mean.float().cpu(), variance.float().cpu())


def measure(linears: Mapping[str, nn.Linear], forward: Callable[[], None]) -> dict[str, Moments]:
    """Moments of the layers' inputs by name, over all tokens of all samples.

    Args:
        linears: Layers by name; not modified.
        forward: Runs the whole model on all samples; called once.

    Raises:
        CalibrationError: MM461, a layer's inputs are not finite, or all zero.
    """
    sums = {name: _Sums(name, linear) for name, linear in linears.items()}
    handles = [linear.register_forward_pre_hook(sums[name]) for name, linear in linears.items()]
    try:
        forward()
    finally:
        for handle in handles:
            handle.remove()
    return {name: item.moments() for name, item in sums.items()}


def of_checkpoint(specs: Iterable[TensorSpec], moments: Mapping[str, Moments]) -> dict[str, Moments]:
    """Moments by the names of the checkpoint's quantizable weights; q, k and v have the same inputs."""
    return {spec.name: moments[source_names(spec)[0]] for spec in specs if spec.quantizable}
