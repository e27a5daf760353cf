"""Follows one streamed answer of ``/v1/chat/completions``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmbuild.base.json_reader import JsonProblemError, parse_json
from mmbuild.base.limits import SERVER_EVENT
from mmbuild.serving.bench.event_stream import EventStream, EventTooLongError
from mmbuild.serving.bench.records import Failure

_TEXTS = ("content", "reasoning_content", "reasoning")
"""Fields of a delta that hold generated text; the last two are vLLM's, for models that think."""

_LONGEST_MESSAGE = 200


class AnswerStream:
    """Notes when text arrives, how many tokens the server reports, and how the answer ends.

    Attributes:
        first: Moment of the first text; of the last chunk if the answer has tokens but no text.
        last: Moment of the last text.
        done: Moment of ``[DONE]``.
        failure: What the stream reports or does wrong.
    """

    def __init__(self) -> None:
        self.first: float | None = None
        self.last: float | None = None
        self.done: float | None = None
        self.failure: Failure | None = None
        self.prompt_tokens: int | None = None
        self._events = EventStream()
        self._usage: int | None = None
        self._texts = 0
        self._finished: float | None = None

    @property
    def complete(self) -> bool:
        """Whether the server has ended the answer: ``[DONE]``, or a finish reason."""
        return self.done is not None or self._finished is not None

    @property
    def tokens(self) -> int:
        """Tokens by the server's usage, otherwise chunks of text."""
        return self._texts if self._usage is None else self._usage

    @property
    def counted(self) -> str:
        """Source of :attr:`tokens`: ``usage`` or ``chunks``."""
        return "chunks" if self._usage is None else "usage"

    def feed(self, received: bytes, now: float) -> None:
        """Take bytes that arrived at ``now``; nothing after ``[DONE]`` or a failure counts."""
        try:
            for event in self._events.feed(received):
                if self.done is None and self.failure is None:
                    self._take(event, now)
        except EventTooLongError:
            self._malformed("an event is too long")

    def close(self) -> None:
        """Conclude the answer."""
        if self.first is None and self.tokens:
            self.first = self.last = self._finished or self.done
        if self.failure is None and not self.complete:
            self.failure = Failure("broken", message="the stream ended without [DONE] and finish_reason")

    def _take(self, event: bytes, now: float) -> None:
        if event == b"[DONE]":
            self.done = now
            return
        try:
            chunk = parse_json(event, SERVER_EVENT)
        except JsonProblemError as error:
            self._malformed(f"an event {error}")
            return
        if not isinstance(chunk, dict):
            self._malformed("an event is not a JSON object")
        elif chunk.get("error"):
            self.failure = failure_of("stream", chunk)
        else:
            self._take_usage(chunk.get("usage"))
            self._take_choice(chunk.get("choices"), now)

    def _take_usage(self, usage: Any) -> None:
        if isinstance(usage, dict):
            self._usage = _count(usage.get("completion_tokens"), self._usage)
            self.prompt_tokens = _count(usage.get("prompt_tokens"), self.prompt_tokens)

    def _take_choice(self, choices: Any, now: float) -> None:
        choice = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(choice, dict):
            return
        delta = choice.get("delta")
        if isinstance(delta, dict) and any(delta.get(name) for name in _TEXTS):
            self._texts += 1
            self.first = now if self.first is None else self.first
            self.last = now
        if choice.get("finish_reason") is not None:
            self._finished = now

    def _malformed(self, problem: str) -> None:
        self.failure = self.failure or Failure("malformed", message=problem)


def failure_of(kind: str, body: Any, status: int | None = None) -> Failure:
    """The failure that a server reports in ``body``: OpenAI's ``{"error": {...}}``, FastAPI's ``{"detail": ...}``."""
    error = body.get("error", body) if isinstance(body, Mapping) else {}
    if not isinstance(error, Mapping):
        return Failure(kind, status, None, first_line(error))
    codes = (error.get(name) for name in ("code", "type"))
    code = next((str(code)[:64] for code in codes if isinstance(code, (str, int)) and code != ""), None)
    return Failure(kind, status, code, first_line(error.get("message", error.get("detail", ""))))


def first_line(message: object) -> str:
    """The first line of another program's message, shortened."""
    return str(message).strip().partition("\n")[0][:_LONGEST_MESSAGE]


def _count(value: Any, otherwise: int | None) -> int | None:
    return value if type(value) is int and value >= 0 else otherwise
