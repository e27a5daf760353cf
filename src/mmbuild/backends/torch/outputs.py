"""Results of an engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one prompt."""

    text: str
    token_ids: tuple[int, ...]

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Profile:
    """Times of one batch.

    Attributes:
        visual_seconds: Visual engine, and filling the prompt table.
        prefill_seconds: Prefill, up to the first tokens.
        decode_seconds: All further tokens.
        prompt_tokens: Tokens of all prompts, visual features included.
        new_tokens: Generated tokens of all sequences.
        steps: Decode steps; ``decode_seconds / steps`` is the time per token of a sequence.
        peak_bytes: Peak memory: of the GPU allocator on CUDA, else resident memory of the process.
    """

    visual_seconds: float
    prefill_seconds: float
    decode_seconds: float
    prompt_tokens: int
    new_tokens: int
    steps: int
    peak_bytes: int

    @property
    def tokens_per_second(self) -> float:
        """Generated tokens of the batch per second of prefill and decoding."""
        return self.new_tokens / (self.prefill_seconds + self.decode_seconds)


@dataclass(frozen=True, slots=True)
class Generation:
    """Answers of one batch, with their times."""

    answers: tuple[Answer, ...]
    profile: Profile


def joined(parts: Sequence[Generation]) -> Generation:
    """Batches that were answered one after the other, as one: times and numbers are sums, memory is the largest."""
    profiles = [part.profile for part in parts]
    names = [field.name for field in fields(Profile) if field.name != "peak_bytes"]
    sums = {name: sum(getattr(one, name) for one in profiles) for name in names}
    answers = tuple(answer for part in parts for answer in part.answers)
    return Generation(answers, Profile(**sums, peak_bytes=max(one.peak_bytes for one in profiles)))
