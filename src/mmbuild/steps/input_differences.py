"""Says how the input of an engine differs from what transformers makes of the same question and picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

_SHOWN = 6


def ids_differ(ours: Sequence[int], theirs: Sequence[int], tokenizer: Any) -> str | None:
    """The first difference between two prompts' token ids as a sentence; None where there is none."""
    if tuple(ours) == tuple(theirs):
        return None
    pairs = enumerate(zip(ours, theirs, strict=False))
    place = next((at for at, (one, other) in pairs if one != other), min(len(ours), len(theirs)))
    return (
        f"the prompt's {len(ours)} tokens are not transformers' {len(theirs)}: from token {place + 1} on "
        f"{_around(ours, place, tokenizer)} instead of {_around(theirs, place, tokenizer)}"
    )


def _around(ids: Sequence[int], place: int, tokenizer: Any) -> str:
    some = list(ids[place : place + _SHOWN])
    if not some:
        return "nothing"
    text = tokenizer.decode([token for token in some if 0 <= token < len(tokenizer)])
    return f"{some} (`{text}`)"


def pixels_differ(ours: Tensor, theirs: Tensor) -> str | None:
    """How two float32 tensors [images, channels, height, width] differ as a sentence; None where they do not."""
    if ours.shape != theirs.shape:
        return f"the pixels' shape is {list(ours.shape)}, and transformers' is {list(theirs.shape)}"
    apart = (ours.float() - theirs.float()).abs()
    if not apart.numel() or not bool((apart > 0).any()):
        return None
    share = float((apart > 0).float().mean())
    return f"{share:.1%} of the pixels' values are not transformers', by up to {float(apart.max()):.4g}"
