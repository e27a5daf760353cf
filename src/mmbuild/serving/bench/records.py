"""What is noted of each request."""

from __future__ import annotations

import time
from dataclasses import dataclass

clock = time.perf_counter
"""The clock of every target, in seconds."""

FAILURES = {
    "http": "the server answered with an HTTP error",
    "connect": "no connection to the server",
    "broken": "the connection broke before the answer was complete",
    "timeout": "no complete answer within --timeout",
    "stream": "the server reported an error after it began to answer",
    "malformed": "the answer is not a stream of chat completion chunks",
}
"""Kind of a failure -> what happened."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a request has no complete answer.

    Attributes:
        kind: A key of :data:`FAILURES`.
        status: HTTP status, if the server answered with an error.
        code: The server's own code or type of the error.
        message: First line of the server's or the client's message.
    """

    kind: str
    status: int | None = None
    code: str | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """One request. All times are in seconds since the start of its run.

    Attributes:
        due: When it was to start: its arrival, or the moment when a client became free.
        sent: When it was sent, or when its batch began.
        first: When its first token arrived; None without tokens.
        last: When its last token arrived.
        ended: When its answer was complete, or when it failed.
        tokens: Generated tokens.
        counted: Source of ``tokens``: ``engine``, the server's ``usage``, or ``chunks`` of text if there is no usage.
        prompt_tokens: Tokens of the prompt, visual features included; None if unknown.
        failure: None if the answer is complete.
    """

    due: float
    sent: float
    first: float | None
    last: float | None
    ended: float
    tokens: int
    counted: str
    prompt_tokens: int | None = None
    failure: Failure | None = None
