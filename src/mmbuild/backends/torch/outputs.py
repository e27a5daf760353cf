"""What an engine gives back."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Answer:
    """One prompt's answer."""

    text: str
    token_ids: tuple[int, ...]

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Profile:
    """Times of one batch.

    Attributes:
        visual_seconds: Visual engine and filling of the prompt table.
        prefill_seconds: Prompts in, first tokens out.
        decode_seconds: All further tokens.
        prompt_tokens: Of the whole batch, visual features included.
        new_tokens: Of the whole batch.
        steps: Decode steps; ``decode_seconds / steps`` is the time per token of a sequence.
        peak_bytes: Peak memory: of the GPU's allocator on CUDA, else resident memory of the process.
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
        """New tokens of the whole batch per second of decoding (the first ones come from prefill)."""
        return self.new_tokens / (self.prefill_seconds + self.decode_seconds)


@dataclass(frozen=True, slots=True)
class Generation:
    """Answers of one batch and how long they took."""

    answers: tuple[Answer, ...]
    profile: Profile
