"""Asks an OpenAI-compatible server: one request of ``/v1/chat/completions``, streamed and timed."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from typing import Any

import httpx

from mmbuild.base.json_reader import JsonProblemError, parse_json
from mmbuild.base.limits import SERVER_EVENT
from mmbuild.serving.bench.answer_stream import AnswerStream, failure_of, first_line
from mmbuild.serving.bench.records import Failure, Record
from mmbuild.serving.bench.workload import Question, Workload

_MOST_BYTES = 64_000_000
"""Bytes of an answer."""
_LONGEST_ERROR = 64_000
_GRACE = 1.0
"""Seconds for the end of the response after ``[DONE]``, so that the connection can be used again."""


def body_of(question: Question, workload: Workload, model: str) -> bytes:
    """The request's JSON: the picture as a ``data:`` URL, greedy, streamed, with usage in the last chunk."""
    picture = base64.b64encode(question.picture).decode("ascii")
    content: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": f"data:{question.mime_type};base64,{picture}"}}
    ]
    if question.prompt is not None:
        content.append({"type": "text", "text": question.prompt})
    body = {
        "model": model,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": workload.max_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        # An extension of vLLM, which other servers may refuse.
        **({"ignore_eos": True} if workload.ignore_eos else {}),
    }
    return json.dumps(body).encode()


async def ask(
    http: httpx.AsyncClient, body: bytes, due: float, timeout: float, now: Callable[[], float]
) -> Record:
    """Send one request and follow its answer; what goes wrong is in the record.

    Args:
        http: The client, with the server's base URL and key.
        body: Result of :func:`body_of`.
        due: When the request was to start, on the clock ``now``.
        timeout: Seconds for the whole answer.
        now: Seconds since the start of the run.
    """
    answer, sent = AnswerStream(), now()
    failure: Failure | None = None
    try:
        async with asyncio.timeout(timeout) as deadline:
            failure = await _exchange(http, body, answer, deadline, now)
    except TimeoutError:
        failure = Failure("timeout", message=f"no complete answer after {timeout:g} s")
    except (httpx.ConnectError, httpx.UnsupportedProtocol) as error:
        failure = Failure("connect", message=first_line(error))
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        failure = Failure("broken", message=first_line(error) or type(error).__name__)
    ended = now()
    answer.close()
    if answer.done is not None:  # what happened afterwards does not matter
        failure, ended = None, answer.done
    failure = failure or answer.failure
    return Record(
        due,
        sent,
        answer.first,
        answer.last,
        ended,
        answer.tokens,
        answer.counted,
        answer.prompt_tokens,
        failure,
    )


async def _exchange(
    http: httpx.AsyncClient,
    body: bytes,
    answer: AnswerStream,
    deadline: asyncio.Timeout,
    now: Callable[[], float],
) -> Failure | None:
    headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
    async with http.stream("POST", "chat/completions", content=body, headers=headers) as response:
        if response.status_code != httpx.codes.OK:
            return failure_of("http", await _error_body(response), response.status_code)
        received, ending = 0, False
        async for data in response.aiter_bytes():
            answer.feed(data, now())
            received += len(data)
            if answer.failure is not None or received > _MOST_BYTES:
                return answer.failure or Failure("malformed", message="the answer is too long")
            if answer.done is not None and not ending:
                ending = True
                deadline.reschedule(asyncio.get_running_loop().time() + _GRACE)
    return None


async def _error_body(response: httpx.Response) -> Any:
    """The body of an error: parsed JSON, otherwise its first line as ``detail``."""
    body = b""
    async for data in response.aiter_bytes():
        body += data
        if len(body) > _LONGEST_ERROR:
            break
    try:
        return parse_json(body, SERVER_EVENT)
    except JsonProblemError:
        return {"detail": body[:_LONGEST_ERROR].decode("utf-8", "replace")}
