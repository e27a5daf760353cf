"""A decode step whose tokens the host has not seen yet, and the inputs of the step after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmbuild.backends.torch.host_copy import HostCopy, on_device


@dataclass(frozen=True, slots=True)
class Flight:
    """A step under way.

    Attributes:
        keys: The requests that get a token.
        chosen: Their tokens, int64 [n].
    """

    keys: tuple[int, ...]
    chosen: HostCopy


def next_inputs(wanted: Sequence[tuple[int, int]], flight: Flight | None, device: str) -> Tensor:
    """The tokens to decode next, int64 [n], without waiting for those that are under way.

    Args:
        wanted: Key of each request, and the last token that the host knows of it.
        flight: The step under way; its tokens are later ones.
        device: Where the tokens are needed.
    """
    if flight is None:
        return on_device([token for _, token in wanted], device)
    if tuple(key for key, _ in wanted) == flight.keys:
        return flight.chosen.tensor
    places = {key: place for place, key in enumerate(flight.keys)}
    count = len(places)
    index = [places.get(key, count + place) for place, (key, _) in enumerate(wanted)]
    both = on_device([index, [token for _, token in wanted]], device)
    return torch.cat([flight.chosen.tensor, both[1]]).index_select(0, both[0])
