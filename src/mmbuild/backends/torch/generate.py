"""The decoding loop: generates token ids step by step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmbuild.backends.torch.host_copy import HostCopy
from mmbuild.backends.torch.logits_processors import LogitsRules, rules_of
from mmbuild.backends.torch.request_limits import require_new_tokens
from mmbuild.backends.torch.sampling import Sampler, Sampling
from mmbuild.backends.torch.session import Session
from mmbuild.models.errors import EngineError
from mmbuild.models.repetition_detector import Repetition


@dataclass(frozen=True, slots=True)
class Stopping:
    """Stopping criteria of sequences, and constraints on their tokens.

    Attributes:
        max_new_tokens: Maximum number of tokens.
        eos_token_ids: Ids that end a sequence; may be empty.
        suppressed_token_ids: Ids that are never generated.
        repetition: Detection of repetition loops; None: off.
        rules: The model's generation settings that change logits; None: no changes.
        with_end_token: Whether sequences include their end token.
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
    *,
    ahead: bool | None = None,
) -> Iterator[list[int | None]]:
    """Decode a batch; yield the new token of every sequence for each step (None after its end).

    Args:
        session: The engine's session.
        prompts: As for :meth:`Session.prefill`.
        visual: As for :meth:`Session.prefill`.
        stopping: When sequences end.
        sampling: Default: greedy.
        largest: A list per sequence; the largest logit of every step is appended, including that of the end token.
        ahead: Start the next step before this one's tokens are known on the host, so that the device never waits;
            after the last end token one step is computed for nothing. Only possible if the host changes no logits
            and needs none. Default: on CUDA.

    Raises:
        EngineError: MM515, too many new tokens are requested; MM523, the first logits are not numbers; a generation
            setting of the model cannot be applied; and as :meth:`Session.prefill`.
    """
    check_room(session, prompts, stopping.max_new_tokens)
    sampler = Sampler(sampling or Sampling(), len(prompts), session.device)
    live = _LiveSequences(stopping, len(prompts), largest)
    rules = _Rules(stopping, prompts, session.device)
    logits = rules.shaped(require_numbers(session.prefill(prompts, visual), stopping))
    may = session.device == "cuda" if ahead is None else ahead
    may = may and rules.on_device and not live.reads_logits
    for step in range(stopping.max_new_tokens):
        chosen = HostCopy(sampler(logits))
        more = step + 1 < stopping.max_new_tokens
        upcoming = rules.shaped(session.decode(chosen.tensor)) if more and may else None
        taken = live.take(chosen.values(), logits, rules)
        if any(token is not None for token in taken):
            yield taken
        if not any(live.live):
            return
        if more:
            logits = rules.shaped(session.decode(chosen.tensor)) if upcoming is None else upcoming


class _Rules:
    """Applies generation settings to the logits of a batch, and checks stop strings."""

    def __init__(self, stopping: Stopping, prompts: Sequence[Sequence[int]], device: str) -> None:
        self._sequences = rules_of(
            stopping.rules, prompts, stopping.eos_token_ids, stopping.max_new_tokens, device
        )
        self._answers: list[list[int]] = [[] for _ in prompts]
        self._never = torch.tensor(stopping.suppressed_token_ids, dtype=torch.int64, device=device)

    @property
    def on_device(self) -> bool:
        """Whether logits do not depend on what the host knows: the tokens so far."""
        return not self._sequences

    def shaped(self, logits: Tensor) -> Tensor:
        """Apply the model's settings to logits [B, vocab], then suppress tokens."""
        if self._sequences:
            pairs = zip(self._sequences, self._answers, logits.split(1), strict=True)
            logits = torch.cat([rules.shaped([answer], own) for rules, answer, own in pairs])
        return suppress(logits, self._never)

    def stopped(self, tokens: Sequence[int]) -> list[bool]:
        """Append the next token of each sequence; returns which sequences now end with a stop string."""
        if not self._sequences:
            return [False] * len(tokens)
        for answer, token in zip(self._answers, tokens, strict=True):
            answer.append(token)
        pairs = zip(self._sequences, self._answers, strict=True)
        return [rules.stopped([answer])[0] for rules, answer in pairs]


class _LiveSequences:
    """Tracks which sequences of a batch are still running."""

    def __init__(self, stopping: Stopping, count: int, largest: Sequence[list[float]]) -> None:
        self.live = [True] * count
        self._ends, self._with_end = stopping.eos_token_ids, stopping.with_end_token
        self._watches = [stopping.repetition.watch() for _ in range(count)] if stopping.repetition else []
        self._largest = largest

    @property
    def reads_logits(self) -> bool:
        """Whether :meth:`take` reads logits."""
        return bool(self._watches or self._largest)

    def take(self, tokens: Sequence[int], logits: Tensor, rules: _Rules) -> list[int | None]:
        """The step's tokens of live sequences, chosen from logits [B, vocab]; None for the others."""
        best = logits.amax(-1).tolist() if self.reads_logits else []
        for row, values in enumerate(self._largest):
            if self.live[row]:
                values.append(best[row])
        before = self.live
        self.live = [live and token not in self._ends for live, token in zip(self.live, tokens, strict=True)]
        returned = before if self._with_end else self.live
        taken = [token if live else None for live, token in zip(returned, tokens, strict=True)]
        # As in transformers, the tokens of a stop string are part of the answer.
        stopped = rules.stopped(tokens)
        self.live = [live and not end for live, end in zip(self.live, stopped, strict=True)]
        for row, watch in enumerate(self._watches):
            # Updated even after the sequence has ended: like Nougat's criterion, it covers the whole batch.
            self.live[row] = not watch(best[row]) and self.live[row]
        return taken


def require_numbers(logits: Tensor, stopping: Stopping) -> Tensor:
    """Return ``logits`` [B, vocab] of prompts if all are finite; otherwise argmax would return token 0.

    Skipped if the model's settings replace such logits. Checked once per batch, where activations are largest,
    because checking every step would wait for the GPU.

    Raises:
        EngineError: MM523, a logit is NaN or infinite.
    """
    if stopping.rules is not None and stopping.rules.accepts_infinity:
        return logits
    rows = logits.isfinite().all(-1)
    if not bool(rows.all()):
        raise EngineError(
            f"the model produced NaN or infinity for prompt {1 + int((~rows).int().argmax())}",
            code="MM523",
            hint="build the engine with engine.dtype bfloat16 or float32",
        )
    return logits


def suppress(logits: Tensor, never: Tensor) -> Tensor:
    """Set the logits [B, vocab] of the tokens ``never``, int64 [n], to minus infinity."""
    return logits.index_fill(1, never, -torch.inf) if len(never) else logits


def check_room(session: Session, prompts: Sequence[Sequence[int]], new_tokens: int) -> None:
    """Check that the engine has slots for the new tokens and the batch is not empty; raises as :func:`stream`."""
    require_new_tokens(new_tokens, session.config.max_output_len)
    if not prompts:
        raise EngineError("the batch is empty", code="MM511", hint="pass at least one prompt")


def collect(steps: Iterator[list[int | None]], batch: int) -> list[list[int]]:
    """Collect the token ids of each sequence from a :func:`stream`."""
    sequences: list[list[int]] = [[] for _ in range(batch)]
    for step in steps:
        for sequence, token in zip(sequences, step, strict=True):
            if token is not None:
                sequence.append(token)
    return sequences


def trim_repetition(
    sequences: Sequence[list[int]], largest: Sequence[list[float]], repetition: Repetition
) -> list[list[int]]:
    """Remove repetition at the ends of ``sequences``; ``largest`` as filled by :func:`stream`."""
    return [
        # A sequence with an end token has one more logit.
        tokens[: repetition.kept_length(values[: len(tokens)], ended=len(values) > len(tokens))]
        for tokens, values in zip(sequences, largest, strict=True)
    ]
