"""How far a quantized model is from the unquantized one, token by token."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.real_decoder.texts import SCORED, Passages

BATCH = 2
DRAWS = 10_000
TOLERATED = 0.02
"""Part of the better of two values by which the other may be larger before it is called worse."""


@dataclass(frozen=True, slots=True)
class Score:
    """Per passage, over its scored tokens.

    Attributes:
        divergence: Mean KL divergence from the unquantized model's distribution, nats, float64 [passages].
        loss: Mean negative log likelihood of the text, nats, float64 [passages].
    """

    divergence: np.ndarray
    loss: np.ndarray


@torch.inference_mode()
def log_probabilities(model: nn.Module, passages: Passages, device: str) -> Iterator[Tensor]:
    """Log-probabilities that predict the scored tokens, float32 [batch, SCORED, vocab], batch after batch."""
    for batch in passages.batches(BATCH):
        logits = model(
            **{name: value.to(device) for name, value in batch.items()}, logits_to_keep=SCORED + 1
        ).logits
        yield logits[:, :-1].float().log_softmax(dim=-1)


@torch.inference_mode()
def score(expected: Iterator[Tensor], found: Iterator[Tensor], passages: Passages) -> Score:
    """Compare what two models predict.

    Args:
        expected: The unquantized model's log-probabilities.
        found: The quantized model's.
        passages: What they predict.
    """
    divergences, losses = [], []
    for own, other, ids in zip(expected, found, passages.ids.split(BATCH), strict=True):
        divergences.append((own.exp() * (own - other)).sum(dim=-1).mean(dim=-1).double())
        targets = ids[:, -SCORED:, None].to(other.device)
        losses.append(-other.gather(-1, targets)[..., 0].double().mean(dim=-1))
    return Score(torch.cat(divergences).cpu().numpy(), torch.cat(losses).cpu().numpy())


def difference(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """95 % interval of ``mean(ours) - mean(theirs)``: bootstrap over passages, which are drawn in pairs."""
    random = np.random.default_rng(0)
    drawn = random.integers(len(ours), size=(DRAWS, len(ours)))
    means = (ours - theirs)[drawn].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def worse(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Whether the interval lies above :data:`TOLERATED` of the better of the two means."""
    return difference(ours, theirs)[0] > TOLERATED * min(ours.mean(), theirs.mean())


def worse_perplexity(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """The same for perplexities, given the losses whose means they are the exponentials of."""
    return difference(ours, theirs)[0] > np.log1p(TOLERATED)
