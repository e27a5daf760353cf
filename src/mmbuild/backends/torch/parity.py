"""How an engine's tokens and distributions compare with a reference's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mmbuild.backends.torch.engine import Engine
from mmbuild.backends.torch.generate import Stopping, collect, stream
from mmbuild.models.errors import EngineError
from mmbuild.models.processor import Request
from mmbuild.models.reference import Continuation

# How far two logits may be apart for their order to be a matter of rounding, by engine dtype. Logits of
# trained models lie within +-50; float16 and bfloat16 round those to 1/32 and 1/4, and layers add to that.
TIE: Mapping[str, float] = {"float32": 1e-3, "float16": 6e-2, "bfloat16": 5e-1}


@dataclass(frozen=True, slots=True)
class TokenDifference:
    """Where greedy tokens first part, with both sides' logits of both tokens (teacher-forced context).

    Attributes:
        position: Of the token, from 0.
        reference_token: The reference's; None where its answer had ended.
        engine_token: The engine's; None where its answer had ended.
        reference_logits: The reference's scores of its own token and of the engine's; None where a side had ended.
        engine_logits: The engine's logits of the same two; None where a side had ended.
    """

    position: int
    reference_token: int | None
    engine_token: int | None
    reference_logits: tuple[float, float] | None
    engine_logits: tuple[float, float] | None

    @property
    def reference_margin(self) -> float:
        """How much the reference preferred its token; infinite where a side had ended."""
        if self.reference_logits is None:
            return math.inf
        return self.reference_logits[0] - self.reference_logits[1]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One request on both sides, up to the end of the reference's answer, its end token included.

    Attributes:
        reference_tokens: Greedy tokens of the reference, N of them.
        engine_tokens: Greedy tokens of the engine, on its own.
        equal_prefix: How many of them agree from the start.
        difference: The first one that does not.
        mean_kl: Mean KL(reference || engine) of next-token distributions, nats, over the reference's tokens.
        max_kl: The largest of them.
        top1_agreement: Share of positions where both prefer the same token, over the reference's tokens.
        kl: KL(reference || engine) at each of the reference's tokens, nats.
        reference_log_probs: What the reference gave each of its tokens, natural logarithm.
        engine_log_probs: What the engine gave them after the same context.
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


def compare(
    engine: Engine, request: Request, reference: Continuation, stopping: Stopping | None = None
) -> Comparison:
    """Run ``request`` twice through the engine: free-running, and fed the reference's tokens.

    Args:
        engine: A loaded engine.
        request: What the engine made of question and pictures.
        reference: The reference's answer.
        stopping: When the engine's answer ends; None: after as many tokens as the reference has, whatever they are.

    Raises:
        EngineError: MM591, a side's logits are not numbers.
    """
    prompts, visual = engine.inputs([request])
    ends = stopping or engine.stopping(len(reference.tokens), ignore_eos=True)
    free = _free_running(engine, prompts, visual, ends)
    forced = _teacher_forced(engine, prompts, visual, reference.tokens)
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


def _free_running(engine: Engine, prompts: list[list[int]], visual: Tensor, stopping: Stopping) -> list[int]:
    """The engine's own greedy tokens, its end token included."""
    whole = replace(stopping, repetition=None, with_end_token=True)
    (tokens,) = collect(stream(engine.session, prompts, visual, whole), 1)
    return tokens


def _check_numbers(reference: Tensor, engine: Tensor) -> None:
    """Nothing can be said of logits [N, vocab] that hold NaN; KL and probabilities would be NaN too."""
    for side, logits in (("transformers", reference), ("the engine", engine)):
        wrong = logits.isnan().any(-1).nonzero()
        if len(wrong):
            raise EngineError(
                f"logits of {side} are not numbers (NaN) from token {int(wrong[0]) + 1} on",
                code="MM591",
                hint="A scale or an activation left the range of engine.dtype: build with another dtype, "
                "or see which layer's scales are zero or NaN in the checkpoint",
            )


def _log_probs(logits: Tensor, tokens: tuple[int, ...]) -> tuple[float, ...]:
    """Log-probabilities of ``tokens`` [N] under logits [N, vocab]."""
    chosen = torch.tensor(tokens).unsqueeze(-1)
    return tuple(logits.log_softmax(-1).gather(-1, chosen).squeeze(-1).tolist())


def _teacher_forced(
    engine: Engine, prompts: list[list[int]], visual: Tensor, tokens: tuple[int, ...]
) -> Tensor:
    """The engine's logits at each of ``tokens``, float32 [N, vocab] on the CPU."""
    session = engine.session
    rows = [session.prefill(prompts, visual).cpu().clone()]
    for token in tokens[:-1]:
        rows.append(session.decode(torch.tensor([token], device=session.device)).cpu().clone())
    return torch.cat(rows)


def kl_divergence(reference: Tensor, engine: Tensor) -> Tensor:
    """KL(reference || engine) of the distributions of logits [N, vocab], nats -> float32 [N]."""
    p, q = reference.log_softmax(-1), engine.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).clamp_min(0)


def _difference(position: int, reference: Continuation, free: list[int], forced: Tensor) -> TokenDifference:
    theirs, ours = (
        tokens[position] if position < len(tokens) else None for tokens in (reference.tokens, free)
    )
    if theirs is None or ours is None:
        return TokenDifference(position, theirs, ours, None, None)
    pair = [theirs, ours]
    scores, logits = reference.scores[position, pair].tolist(), forced[position, pair].tolist()
    return TokenDifference(position, theirs, ours, (scores[0], scores[1]), (logits[0], logits[1]))


def is_tie(difference: TokenDifference, dtype: str) -> bool:
    """Whether the reference preferred its token by no more than rounding in ``dtype``."""
    return difference.reference_margin <= TIE[dtype]
