"""The decoding loop: prompts in, token ids out, one step at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmbuild.backends.torch.logits_processors import LogitsRules, rules_of
from mmbuild.backends.torch.sampling import Sampler, Sampling
from mmbuild.backends.torch.session import Session
from mmbuild.models.errors import EngineError
from mmbuild.models.repetition_detector import Repetition


@dataclass(frozen=True, slots=True)
class Stopping:
    """When a sequence ends, and what is never in it.

    Attributes:
        max_new_tokens: At most this many tokens.
        eos_token_ids: Ids that end a sequence. Empty: never.
        suppressed_token_ids: Ids that are never chosen.
        repetition: When a sequence is taken to go round in circles; None: never.
        rules: What the model's generation settings do to logits; None: nothing.
        with_end_token: Whether the token that ends a sequence is returned as its last one.
    """

    max_new_tokens: int
    eos_token_ids: tuple[int, ...] = ()
    suppressed_token_ids: tuple[int, ...] = ()
    repetition: Repetition | None = None
    rules: LogitsRules | None = None
    with_end_token: bool = False


def stream(
    session: Session,
    prompts: Sequence[Sequence[int]],
    visual: Tensor,
    stopping: Stopping,
    sampling: Sampling | None = None,
    largest: Sequence[list[float]] = (),
) -> Iterator[list[int | None]]:
    """Decode a batch, yielding each step's new token of every sequence (None once it has ended).

    Args:
        session: The engine's.
        prompts: As :meth:`Session.prefill` takes them.
        visual: As :meth:`Session.prefill` takes it.
        stopping: When sequences end.
        sampling: Greedy when left out.
        largest: A list for each sequence, to which the largest logit of every step is appended, that of the
            end token included.

    Raises:
        EngineError: More new tokens are asked for than the engine has room for, the first logits are not numbers,
            a generation setting of the model cannot be applied, or as :meth:`Session.prefill` does.
    """
    check_room(session, prompts, stopping.max_new_tokens)
    sampler = Sampler(sampling or Sampling(), len(prompts), session.device)
    going = _LiveSequences(stopping, len(prompts), largest)
    rules = _Rules(stopping, prompts, session.device)
    logits = rules.shaped(require_numbers(session.prefill(prompts, visual), stopping))
    for step in range(stopping.max_new_tokens):
        tokens = sampler(logits)
        taken = going.take(tokens.tolist(), logits, rules)
        if any(token is not None for token in taken):
            yield taken
        if not any(going.live):
            return
        if step + 1 < stopping.max_new_tokens:
            logits = rules.shaped(session.decode(tokens))


class _Rules:
    """What is done to the logits of a batch before a token is chosen, and stop strings."""

    def __init__(self, stopping: Stopping, prompts: Sequence[Sequence[int]], device: str) -> None:
        self._stopping = stopping
        self._sequences = rules_of(
            stopping.rules, prompts, stopping.eos_token_ids, stopping.max_new_tokens, device
        )
        self._answers: list[list[int]] = [[] for _ in prompts]

    def shaped(self, logits: Tensor) -> Tensor:
        """Logits [B, vocab] by the model's settings, then without suppressed tokens."""
        if self._sequences:
            pairs = zip(self._sequences, self._answers, logits.split(1), strict=True)
            logits = torch.cat([rules.shaped([answer], own) for rules, answer, own in pairs])
        return suppress(logits, self._stopping)

    def stopped(self, tokens: Sequence[int]) -> list[bool]:
        """Which sequences end with a stop string once each has its next token."""
        if not self._sequences:
            return [False] * len(tokens)
        for answer, token in zip(self._answers, tokens, strict=True):
            answer.append(token)
        pairs = zip(self._sequences, self._answers, strict=True)
        return [rules.stopped([answer])[0] for rules, answer in pairs]


class _LiveSequences:
    """Which sequences of a batch still go on."""

    def __init__(self, stopping: Stopping, count: int, largest: Sequence[list[float]]) -> None:
        self.live = [True] * count
        self._ends, self._with_end = stopping.eos_token_ids, stopping.with_end_token
        self._watches = [stopping.repetition.watch() for _ in range(count)] if stopping.repetition else []
        self._largest = largest

    def take(self, tokens: Sequence[int], logits: Tensor, rules: _Rules) -> list[int | None]:
        """What the live sequences get of a step's tokens, chosen from logits [B, vocab]."""
        best = logits.amax(-1).tolist() if self._watches or self._largest else []
        for row, values in enumerate(self._largest):
            if self.live[row]:
                values.append(best[row])
        before = self.live
        self.live = [live and token not in self._ends for live, token in zip(self.live, tokens, strict=True)]
        returned = before if self._with_end else self.live
        taken = [token if live else None for live, token in zip(returned, tokens, strict=True)]
        # The tokens of a stop string are part of the answer, as in transformers.
        stopped = rules.stopped(tokens)
        self.live = [live and not end for live, end in zip(self.live, stopped, strict=True)]
        for row, watch in enumerate(self._watches):
            # Fed to the end, whether the sequence lives or not: a criterion of the batch, as in Nougat's own.
            self.live[row] = not watch(best[row]) and self.live[row]
        return taken


def require_numbers(logits: Tensor, stopping: Stopping) -> Tensor:
    """``logits`` [B, vocab] of prompts, if all are numbers: from others the first token of the vocabulary is chosen.

    Not looked at where the model's settings replace such logits.

    Looked at once a batch, where activations are largest; every step would wait for the GPU.

    Raises:
        EngineError: MM523, they are not.
    """
    if stopping.rules is not None and stopping.rules.accepts_infinity:
        return logits
    rows = logits.isfinite().all(-1)
    if not bool(rows.all()):
        raise EngineError(
            f"the model's numbers for prompt {1 + int((~rows).int().argmax())} left the range of its number format",
            code="MM523",
            hint="Build it with engine.dtype bfloat16 or float32",
        )
    return logits


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


def trim_repetition(
    sequences: Sequence[list[int]], largest: Sequence[list[float]], repetition: Repetition
) -> list[list[int]]:
    """``sequences`` without what repeats at their ends; ``largest`` as :func:`stream` filled it."""
    return [
        # A sequence that ended by a token has one logit more: that token's.
        tokens[: repetition.kept_length(values[: len(tokens)], ended=len(values) > len(tokens))]
        for tokens, values in zip(sequences, largest, strict=True)
    ]
