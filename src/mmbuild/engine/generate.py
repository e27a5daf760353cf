"""The decoding loop: prompts in, token ids out, one step at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmbuild.engine.config import EngineError
from mmbuild.engine.repetition import Repetition
from mmbuild.engine.sampling import Sampler, Sampling
from mmbuild.engine.session import Session


@dataclass(frozen=True, slots=True)
class Stopping:
    """When a sequence ends, and what is never in it.

    Attributes:
        max_new_tokens: At most this many tokens.
        eos_token_ids: Ids that end a sequence; the id itself is not returned. Empty: never.
        suppressed_token_ids: Ids that are never chosen.
        repetition: When a sequence is taken to go round in circles; None: never.
    """

    max_new_tokens: int
    eos_token_ids: tuple[int, ...] = ()
    suppressed_token_ids: tuple[int, ...] = ()
    repetition: Repetition | None = None


def stream(
    session: Session,
    prompts: Sequence[Sequence[int]],
    visual: Tensor,
    stopping: Stopping,
    sampling: Sampling | None = None,
) -> Iterator[list[int | None]]:
    """Decode a batch, yielding each step's new token of every sequence (None once it has ended).

    Raises:
        EngineError: More new tokens are asked for than the engine has room for, or as
            :meth:`Session.prefill` does.
    """
    check_room(session, prompts, stopping.max_new_tokens)
    sampler = Sampler(sampling or Sampling(), len(prompts), session.device)
    watched = [stopping.repetition.watch() for _ in prompts] if stopping.repetition else []
    logits = suppress(session.prefill(prompts, visual), stopping)
    live = [True] * len(prompts)
    for step in range(stopping.max_new_tokens):
        tokens = sampler(logits)
        ids = tokens.tolist()
        live = [alive and token not in stopping.eos_token_ids for alive, token in zip(live, ids, strict=True)]
        if not any(live):
            return
        yield [token if alive else None for alive, token in zip(live, ids, strict=True)]
        # Watched for every sequence, alive or not, as a batch's criteria are in Nougat's own decoding.
        circles = [watch(best) for watch, best in zip(watched, logits.amax(-1).tolist(), strict=False)]
        live = [
            alive and not circle for alive, circle in zip(live, circles or [False] * len(live), strict=True)
        ]
        if not any(live):
            return
        if step + 1 < stopping.max_new_tokens:
            logits = suppress(session.decode(tokens), stopping)


def suppress(logits: Tensor, stopping: Stopping) -> Tensor:
    """Logits [B, vocab] with what is never chosen at minus infinity."""
    if not stopping.suppressed_token_ids:
        return logits
    never = torch.tensor(stopping.suppressed_token_ids, device=logits.device)
    return logits.index_fill(1, never, -torch.inf)


def check_room(session: Session, prompts: Sequence[Sequence[int]], new_tokens: int) -> None:
    """Refuse more new tokens than the engine has slots for, and an empty batch; raises as :func:`stream`."""
    limit = session.config.max_output_len
    if not 1 <= new_tokens <= limit:
        raise EngineError(
            f"{new_tokens} new tokens are asked for, and the engine is built for 1 to {limit}",
            code="MM515",
            hint="Ask for fewer, or raise max_output_len in the recipe",
        )
    if not prompts:
        raise EngineError("there is no prompt", code="MM511", hint="Give at least one prompt")


def collect(steps: Iterator[list[int | None]], batch: int) -> list[list[int]]:
    """The token ids of each sequence of a :func:`stream`."""
    sequences: list[list[int]] = [[] for _ in range(batch)]
    for step in steps:
        for sequence, token in zip(sequences, step, strict=True):
            if token is not None:
                sequence.append(token)
    return sequences
