"""Tensors between host and device, without waiting for the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class HostCopy:
    """Integers of the device on their way to the host.

    Attributes:
        tensor: They, on the device.
    """

    def __init__(self, tensor: Tensor) -> None:
        """Start the copy now: later it would wait for what the device does next."""
        self.tensor = tensor
        self._host, self._arrived = tensor, None
        if tensor.is_cuda:
            self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._host.copy_(tensor, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def values(self) -> list[int]:
        """The integers, once they are there."""
        if self._arrived is not None:
            self._arrived.synchronize()
        values: list[int] = self._host.tolist()
        return values


def on_device(values: Sequence[int] | Sequence[Sequence[int]], device: str) -> Tensor:
    """Integers as an int64 tensor on ``device``."""
    return to_device(torch.tensor(values, dtype=torch.int64), device)


def to_device(tensor: Tensor, device: str) -> Tensor:
    """A tensor on ``device``."""
    if device == "cuda" and not tensor.is_cuda:
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
