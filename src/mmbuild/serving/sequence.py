"""The state of one answer while it is generated: its rules, draws, text and end."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from mmbuild.backends.torch.generate import require_numbers, suppress, trim_repetition
from mmbuild.backends.torch.logits_processors import rules_of
from mmbuild.backends.torch.sampling import Sampler
from mmbuild.models.text_stream import Decode, TextStream
from mmbuild.serving.jobs import Finish, Job, Piece, TokenLogprob

IMPOSSIBLE = -9999.0
"""The log probability of a token that cannot come, as in OpenAI's protocol."""


@lru_cache(maxsize=8)
def _never(ids: tuple[int, ...], device: str) -> Tensor:
    """Token ids on a device, int64 [n]: sending them for each answer would wait for the device."""
    return torch.tensor(ids, dtype=torch.int64, device=device)


class AnswerState:
    """One answer. Its tokens do not depend on what else the engine answers at the same time."""

    def __init__(
        self, job: Job, prompt: Sequence[int], device: str, decode: Decode, unsettled: int = 0
    ) -> None:
        """``prompt``: as for :meth:`Session.prefill`; ``decode`` and ``unsettled``: as for :class:`TextStream`."""
        stopping = job.stopping
        self.job = job
        self.ids: list[int] = []
        self._device, self._decode = device, decode
        self._rules = rules_of(
            stopping.rules, [prompt], stopping.eos_token_ids, stopping.max_new_tokens, device
        )
        self._never = _never(stopping.suppressed_token_ids, device)
        self._sampler = Sampler(job.sampling, 1, device) if job.sampling.temperature > 0 else None
        self._watch = stopping.repetition.watch() if stopping.repetition else None
        self._largest: list[float] = []
        self._text = TextStream(decode, job.stop, unsettled)
        self._said = 0

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is taken."""
        return self._sampler is None

    @property
    def steps_ahead(self) -> bool:
        """Whether its next logits can be computed, and a token chosen, before the host has its last token."""
        return bool(self.ids) and not self._rules and self._watch is None and self.job.logprobs is None

    def shaped(self, logits: Tensor) -> Tensor:
        """Apply the model's settings to logits float32 [1, vocab]."""
        if not self.ids:
            require_numbers(logits, self.job.stopping)
        for rules in self._rules:
            logits = rules.shaped([self.ids], logits)
        return suppress(logits, self._never)

    def draw(self, logits: Tensor) -> Tensor:
        """Draw the next token from shaped logits float32 [1, vocab]: int64 [1]."""
        assert self._sampler is not None
        return self._sampler(logits)

    def take(self, token: int, logits: Tensor | None) -> tuple[tuple[TokenLogprob, ...], Finish | None]:
        """Add a token that was chosen from shaped ``logits`` float32 [1, vocab]; None if it :attr:`steps_ahead`.

        Returns:
            Its log probability, if that is wanted, and why the answer has ended, if its tokens say so.
        """
        job = self.job
        best = float(logits.amax()) if self._watch is not None and logits is not None else 0.0
        if self._watch is not None:
            self._largest.append(best)
        if token in job.stopping.eos_token_ids:
            return (), "stop"
        self.ids.append(token)
        logprobs = self._logprobs(token, logits)
        looping = self._watch is not None and self._watch(best)
        if looping or any(rules.stopped([self.ids])[0] for rules in self._rules):
            return logprobs, "stop"
        return logprobs, "length" if len(self.ids) >= job.stopping.max_new_tokens else None

    def say(self, token: int, logprobs: tuple[TokenLogprob, ...]) -> tuple[Piece, bool]:
        """What a token that was taken adds to the text, and whether a stop string ends the answer there."""
        self._said += 1
        text = self._text.add(token) if self._watch is None else ""
        return Piece(text, (token,), logprobs), self._text.stopped

    def finish(self) -> tuple[str, str]:
        """The rest of the text, and all of it. Tokens after a stop string do not count."""
        del self.ids[self._said :]
        repetition = self.job.stopping.repetition
        if repetition is not None:
            # What repeats is cut, so nothing could be reported before.
            (self.ids,) = trim_repetition([self.ids], [self._largest], repetition)
            text = self._decode(self.ids).strip()
            return text, text
        return self._text.finish(), self._text.text

    def _logprobs(self, token: int, logits: Tensor | None) -> tuple[TokenLogprob, ...]:
        count = self.job.logprobs
        if count is None or logits is None:
            return ()
        # JSON has no infinity, which is the value of tokens that the model's settings exclude.
        values = logits[0].log_softmax(-1).clamp(min=IMPOSSIBLE)
        top = values.topk(min(count, values.numel())) if count else None
        pairs = [] if top is None else zip(top.indices.tolist(), top.values.tolist(), strict=True)
        return (TokenLogprob(token, float(values[token]), tuple(pairs)),)
