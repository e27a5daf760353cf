"""What the engine's loop knows of a request under way, and the choice of its next token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmbuild.serving.jobs import Finish, Job, TokenLogprob
from mmbuild.serving.sequence import AnswerState


@dataclass(slots=True)
class Answering:
    """A job on its way.

    Attributes:
        job: The job.
        arrived: When it was submitted.
        started: When it got a slot.
        prompt: Ids for the session; known once the pictures have been seen.
        table: The session's prompt table, or features.
        sequence: The answer; exists once the prompt is known.
        token: The last token that the host knows, to be decoded next.
        ended: Whether all of its tokens are known.
    """

    job: Job
    arrived: float
    started: float = 0.0
    prompt: list[int] | None = None
    table: Tensor | None = None
    sequence: AnswerState | None = None
    token: int = -1
    ended: bool = False

    @property
    def needs_more_than_one(self) -> bool:
        """Whether the answer may have more tokens than one that is under way."""
        return self.sequence is None or len(self.sequence.ids) + 1 < self.job.stopping.max_new_tokens


@dataclass(frozen=True, slots=True)
class ChosenToken:
    """A token that was chosen, and whose text is still to be made.

    Attributes:
        key: The request.
        job: Its job.
        token: The token; None: an end token, which has no text.
        logprobs: Its log probability, if that is wanted.
        reason: Why the answer ends with it, if it does.
    """

    key: int
    job: Answering
    token: int | None
    logprobs: tuple[TokenLogprob, ...]
    reason: Finish | None


Row = tuple[int, Answering, Tensor]
"""A request, and the logits of its next token, float32 [1, vocab]."""


def drawn(rows: Sequence[Row], logits: Tensor) -> Tensor:
    """The next token of each row, int64 [n]; ``logits`` [n, vocab] are those that the rows were made of."""
    parts = [shaped for _, _, shaped in rows]
    unchanged = len(parts) == len(logits) and all(
        part.data_ptr() == own.data_ptr() for part, own in zip(parts, logits, strict=True)
    )
    tokens = (logits if unchanged else torch.cat(parts)).argmax(-1)
    for place, (_, job, shaped) in enumerate(rows):
        if job.sequence is not None and not job.sequence.is_greedy:
            tokens[place : place + 1] = job.sequence.draw(shaped)
    return tokens
