"""Compares the tokens and distributions of any engine with those of a reference."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmbuild.models.errors import EngineError
from mmbuild.models.families.reference import Continuation

# Difference of two logits up to which their order may be due to rounding, by engine dtype. Logits of trained models
# are within +-50; float16 and bfloat16 round those to 1/32 and 1/4, and errors of layers add up.
TIE: Mapping[str, float] = {"float32": 1e-3, "float16": 6e-2, "bfloat16": 5e-1}


@dataclass(frozen=True, slots=True)
class TokenDifference:
    """The first difference of greedy tokens, with both sides' logits of both tokens (teacher-forced context).

    Attributes:
        position: Position of the token, from 0.
        reference_token: The reference's token; None if its answer had ended.
        engine_token: The engine's token; None if its answer had ended.
        reference_logits: The reference's scores of its own token and the engine's; None if either answer had ended.
        engine_logits: The engine's logits of the same two tokens; None if either answer had ended.
    """

    position: int
    reference_token: int | None
    engine_token: int | None
    reference_logits: tuple[float, float] | None
    engine_logits: tuple[float, float] | None

    @property
    def reference_margin(self) -> float:
        """Margin by which the reference preferred its token; infinite if either answer had ended."""
        if self.reference_logits is None:
            return math.inf
        return self.reference_logits[0] - self.reference_logits[1]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One request on both sides, up to the end of the reference's answer, its end token included.

    Attributes:
        reference_tokens: The N greedy tokens of the reference.
        engine_tokens: Greedy tokens of the engine, free-running.
        equal_prefix: Number of equal tokens from the start.
        difference: The first difference.
        mean_kl: Mean KL(reference || engine) of next-token distributions over the reference's tokens, nats.
        max_kl: Maximum of the same.
        top1_agreement: Fraction of the reference's positions where both prefer the same token.
        kl: KL(reference || engine) at each of the reference's tokens, nats.
        reference_log_probs: The reference's log-probability of each of its tokens, natural logarithm.
        engine_log_probs: The engine's log-probability of the same tokens after the same context.
    """

    reference_tokens: tuple[int, ...]
    engine_tokens: tuple[int, ...]
    equal_prefix: int
    difference: TokenDifference | None
    mean_kl: float
    max_kl: float
    top1_agreement: float
    kl: tuple[float, ...]
    reference_log_probs: tuple[float, ...]
    engine_log_probs: tuple[float, ...]


def compared(reference: Continuation, free: Sequence[int], forced: Tensor) -> Comparison:
    """Compare one answer of an engine with the reference's.

    Args:
        reference: The reference's answer of N tokens.
        free: Greedy tokens of the engine, free-running, end token included.
        forced: The engine's logits at each of the reference's tokens after the same context, float32 [N, vocab].

    Raises:
        EngineError: MM591, logits of either side are NaN.
    """
    _check_numbers(reference.logits, forced)
    kl = kl_divergence(reference.logits, forced)
    agreement = (forced.argmax(-1) == reference.logits.argmax(-1)).float().mean()
    pairs = zip(reference.tokens, free, strict=False)
    shorter = min(len(reference.tokens), len(free))
    prefix = next((place for place, pair in enumerate(pairs) if pair[0] != pair[1]), shorter)
    return Comparison(
        reference_tokens=reference.tokens,
        engine_tokens=tuple(free),
        equal_prefix=prefix,
        difference=None if reference.tokens == tuple(free) else _difference(prefix, reference, free, forced),
        mean_kl=float(kl.mean()),
        max_kl=float(kl.max()),
        top1_agreement=float(agreement),
        kl=tuple(kl.tolist()),
        reference_log_probs=_log_probs(reference.logits, reference.tokens),
        engine_log_probs=_log_probs(forced, reference.tokens),
    )


def _check_numbers(reference: Tensor, engine: Tensor) -> None:
    """Raise if logits [N, vocab] contain NaN, because KL and probabilities would be NaN too."""
    for side, logits in (("transformers", reference), ("the engine", engine)):
        wrong = logits.isnan().any(-1).nonzero()
        if len(wrong):
            raise EngineError(
                f"logits of {side} are not numbers (NaN) from token {int(wrong[0]) + 1} on",
                code="MM591",
                hint="a scale or an activation overflows engine.dtype: build with another dtype, "
                "or check the checkpoint for scales that are zero or NaN",
            )


def _log_probs(logits: Tensor, tokens: tuple[int, ...]) -> tuple[float, ...]:
    """Log-probabilities of ``tokens`` [N] under logits [N, vocab]."""
    chosen = torch.tensor(tokens).unsqueeze(-1)
    return tuple(logits.log_softmax(-1).gather(-1, chosen).squeeze(-1).tolist())


def kl_divergence(reference: Tensor, engine: Tensor) -> Tensor:
    """KL(reference || engine) of the distributions of logits [N, vocab], nats -> float32 [N]."""
    p, q = reference.log_softmax(-1), engine.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).clamp_min(0)


def _difference(
    position: int, reference: Continuation, free: Sequence[int], forced: Tensor
) -> TokenDifference:
    theirs, ours = (
        tokens[position] if position < len(tokens) else None for tokens in (reference.tokens, free)
    )
    if theirs is None or ours is None:
        return TokenDifference(position, theirs, ours, None, None)
    pair = [theirs, ours]
    scores, logits = reference.scores[position, pair].tolist(), forced[position, pair].tolist()
    return TokenDifference(position, theirs, ours, (scores[0], scores[1]), (logits[0], logits[1]))


def is_tie(difference: TokenDifference, dtype: str) -> bool:
    """Whether the reference's margin is within rounding in ``dtype``."""
    return difference.reference_margin <= TIE[dtype]
