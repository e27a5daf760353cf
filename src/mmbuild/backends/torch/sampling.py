"""Chooses the next token from logits."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mmbuild.base.errors import UsageError

_COLDEST = 1e-30
SEEDS = 1 << 62  # sequence i takes seed + i, and generators take 64 bits


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling options; the default is greedy.

    Attributes:
        temperature: 0 is greedy; larger than 0 divides the logits.
        top_k: Keep the k most likely tokens; 0 keeps all.
        top_p: Keep the most likely tokens that together reach this probability, at least one.
        seed: Sequence i uses a generator seeded with ``seed + i``, so its tokens do not depend on the rest of the
            batch.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, good, allowed in (
            ("temperature", self.temperature, 0 <= self.temperature < math.inf, "0 or more"),
            ("top_k", self.top_k, self.top_k >= 0, "0 or more"),
            ("top_p", self.top_p, 0 < self.top_p <= 1, "more than 0 and at most 1"),
            ("seed", self.seed, 0 <= self.seed < SEEDS, f"0 or more and less than {SEEDS}"),
        ):
            if not good:
                raise UsageError(f"{name} is {value}, but must be {allowed}", code="MM520")


class Sampler:
    """Draws one token per sequence and step."""

    def __init__(self, sampling: Sampling, batch: int, device: str) -> None:
        self._sampling = sampling
        self._generators = [
            torch.Generator(device).manual_seed(sampling.seed + row)
            for row in range(batch if sampling.temperature > 0 else 0)
        ]

    def __call__(self, logits: Tensor) -> Tensor:
        """logits float32 [B, vocab] -> int64 [B]."""
        if not self._generators:
            return logits.argmax(dim=-1)
        probabilities = distribution(logits, self._sampling)
        draws = [
            torch.multinomial(row, 1, generator=generator)
            for row, generator in zip(probabilities, self._generators, strict=True)
        ]
        return torch.cat(draws)


def distribution(logits: Tensor, sampling: Sampling) -> Tensor:
    """Probabilities after temperature, top-k, then top-p: float32 [B, vocab] -> the same, rows sum to 1."""
    # Shift the maximum to 0, so that dividing by a very small temperature overflows to -inf, not NaN.
    logits = (logits - logits.amax(-1, keepdim=True)) / max(sampling.temperature, _COLDEST)
    if 0 < sampling.top_k < logits.shape[-1]:
        threshold = logits.topk(sampling.top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < threshold, -torch.inf)
    if sampling.top_p < 1:
        # Sorted before the softmax, in which close logits become equal.
        ordered, order = logits.sort(dim=-1, descending=True, stable=True)
        ordered = ordered.softmax(-1)
        # Keep a token if those before it have not reached top_p; the most likely one is always kept.
        drop = ordered.cumsum(-1) - ordered >= sampling.top_p
        drop[:, 0] = False  # float32 has no numbers as small as top_p may be
        logits = logits.masked_fill(torch.zeros_like(drop).scatter(-1, order, drop), -torch.inf)
    return logits.softmax(-1)
