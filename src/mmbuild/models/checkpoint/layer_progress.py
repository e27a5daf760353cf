"""Counts layers while their tensors are written one by one."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable

from mmbuild.base.progress import Amount

_LAYER = re.compile(r"^(.*?layers\.\d+)\.")


def layer_of(name: str) -> str | None:
    """The layer that a tensor belongs to: ``layers.3`` of ``layers.3.mlp.fc.weight``; None outside layers."""
    match = _LAYER.match(name)
    return match[1] if match else None


def layer_counter(names: Iterable[str]) -> Callable[[str], Amount]:
    """A function to be called with the name of each tensor once it is written; returns how many layers are done.

    Args:
        names: The name of each tensor as often as it will be written.
    """
    missing = Counter(layer for layer in map(layer_of, names) if layer is not None)
    total, done = len(missing), 0

    def written(name: str) -> Amount:
        nonlocal done
        layer = layer_of(name)
        if layer is not None:
            missing[layer] -= 1
            done += missing[layer] == 0
        return Amount(done, total, "layers")

    return written
