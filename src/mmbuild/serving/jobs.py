"""What the engine is asked, and what it reports while it answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from mmbuild.backends.torch.generate import Stopping
from mmbuild.backends.torch.sampling import Sampling
from mmbuild.base.errors import MmbuildError
from mmbuild.models.families.processor import Request

Finish = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token and its log probability, and the most likely ones at its place.

    Attributes:
        token: Its id.
        logprob: Natural logarithm, before temperature, top-k and top-p; finite.
        top: Ids and log probabilities of the most likely tokens, best first.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """Something new of an answer.

    Attributes:
        text: New text; may be empty.
        tokens: New tokens.
        logprobs: Of those tokens, if they were requested.
    """

    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Done:
    """The end of an answer.

    Attributes:
        reason: ``stop``: an end token, a stop string or repetition; ``length``: ``max_new_tokens``.
        text: The whole answer.
        tokens: Its tokens, without the end token.
        queued: Seconds until it got a slot.
        seconds: Seconds in its slot.
    """

    reason: Finish
    text: str
    tokens: tuple[int, ...]
    queued: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Failed:
    """No answer, or no more of it."""

    error: MmbuildError


Event = Piece | Done | Failed


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Job:
    """One sequence to generate.

    Attributes:
        request: The encoded prompt with its pictures.
        stopping: When it ends.
        sampling: How tokens are chosen.
        stop: Strings that end it and are not part of it.
        logprobs: The number of most likely tokens to report for each token; None: no log probabilities.
        report: Gets each event, in the engine's thread; must return at once and raise nothing.
        send: Called after what a step reported, once for all jobs that have the same; likewise.
    """

    request: Request
    stopping: Stopping
    sampling: Sampling
    stop: tuple[str, ...]
    logprobs: int | None
    report: Callable[[Event], None]
    send: Callable[[], None] = _nothing
