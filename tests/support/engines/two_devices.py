"""Two devices on one CPU: each tensor's device is recorded separately, and an operation across both is refused.

As on a real machine, scalars (0 dimensions) go with either. Tensors that nobody placed (positions, masks, constants
that a model makes for itself) go with either too, because what device they are asked for cannot be seen here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

HOST, GPU = "host", "gpu"


class TwoDevices(TorchDispatchMode):
    """Within, results are where their operands are.

    Attributes:
        mixed: Operations that were refused.
    """

    def __init__(self) -> None:
        super().__init__()
        self.places: dict[int, tuple[str, Any]] = {}
        self.mixed: list[str] = []

    def place_of(self, tensor: Tensor) -> str | None:
        found = self.places.get(tensor.untyped_storage().data_ptr())
        return found[0] if found else None

    def put(self, tensor: Tensor, place: str) -> Tensor:
        """``tensor`` at ``place``: itself, or a copy."""
        if self.place_of(tensor) == place:
            return tensor
        copy = tensor.detach().clone()
        self._note(copy, place)
        return copy

    def settle(self, tensors: Iterator[Tensor], place: str) -> None:
        """Say where tensors are."""
        for tensor in tensors:
            self._note(tensor, place)

    def _note(self, tensor: Tensor, place: str | None) -> None:
        storage = tensor.untyped_storage()
        if place is None:
            self.places.pop(storage.data_ptr(), None)
        else:  # kept alive, so that no other storage gets its address
            self.places[storage.data_ptr()] = (place, storage)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        operands = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        places = {self.place_of(one) for one in operands if one.dim() > 0} - {None}
        if len(places) > 1 and "copy_" not in str(func):
            self.mixed.append(str(func))
            raise RuntimeError(f"Expected all tensors to be on the same device: {func}")
        result = func(*args, **(kwargs or {}))
        if places and "copy_" not in str(func):
            for leaf in tree_leaves(result):
                if isinstance(leaf, Tensor):
                    self._note(leaf, next(iter(places)))
        return result
