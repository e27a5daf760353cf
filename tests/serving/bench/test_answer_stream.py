"""Streamed answers: moments, tokens, ends."""

import pytest

from mmbuild.serving.bench.answer_stream import AnswerStream, failure_of
from mmbuild.serving.bench.records import Failure
from support.servers.openai import DONE, event, usage


def follow(*parts):
    """The answer whose parts arrive at 1, 2, ... seconds."""
    answer = AnswerStream()
    for moment, part in enumerate(parts, start=1):
        answer.feed(part, float(moment))
    answer.close()
    return answer


def test_first_text_counts_and_not_the_role():
    answer = follow(event(""), event("a"), event("b"), event(finish="stop"), usage(5), DONE)
    assert (answer.first, answer.last, answer.done) == (2.0, 3.0, 6.0)
    assert (answer.tokens, answer.counted, answer.prompt_tokens) == (5, "usage", 20)
    assert answer.failure is None


def test_chunks_count_without_usage():
    answer = follow(event("a"), event("b"), event(finish="stop"), DONE)
    assert (answer.tokens, answer.counted, answer.prompt_tokens) == (2, "chunks", None)


def test_usage_in_every_chunk():
    """vLLM's continuous_usage_stats."""
    counts = [{"prompt_tokens": 3, "completion_tokens": number} for number in (1, 2)]
    answer = follow(event("a", usage=counts[0]), event("b", usage=counts[1]), DONE)
    assert (answer.tokens, answer.prompt_tokens) == (2, 3)


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_thoughts_are_text(name):
    chunk = b'data: {"choices": [{"delta": {"%s": "hm"}}]}\n\n' % name.encode()
    assert follow(chunk, event("a"), DONE).first == 1.0


def test_tokens_without_text_arrive_with_the_end():
    answer = follow(event(""), event("", finish="length"), usage(3), DONE)
    assert (answer.first, answer.last, answer.tokens) == (2.0, 2.0, 3)


def test_no_tokens_at_all():
    answer = follow(event(""), event(finish="stop"), usage(0), DONE)
    assert (answer.first, answer.tokens, answer.failure) == (None, 0, None)


def test_finish_reason_completes_without_done():
    answer = follow(event("a"), event(finish="stop"))
    assert (answer.done, answer.failure) == (None, None)


def test_end_without_either_is_a_broken_answer():
    assert follow(event("a")).failure.kind == "broken"
    assert follow().failure.kind == "broken"


def test_nothing_after_done_counts():
    answer = follow(event("a"), DONE, event("b"), b"data: garbage\n\n")
    assert (answer.last, answer.failure) == (1.0, None)


@pytest.mark.parametrize(
    ("part", "kind", "words"),
    [
        (b"data: {\n\n", "malformed", "not JSON"),
        (b"data: [1]\n\n", "malformed", "not a JSON object"),
        (b'data: {"error": {"message": "no memory\\nat all", "code": 500}}\n\n', "stream", "no memory"),
        (b'data: {"error": "no memory"}\n\n', "stream", "no memory"),
        (b"data: " + b"x" * 1_000_001, "malformed", "too long"),
    ],
)
def test_failures_in_the_stream(part, kind, words):
    failure = follow(event("a"), part, DONE).failure
    assert failure.kind == kind
    assert words in failure.message
    assert "\n" not in failure.message


@pytest.mark.parametrize(
    "chunk",
    [
        b"{}",
        b'{"choices": 3}',
        b'{"choices": [null]}',
        b'{"choices": [{"delta": 3}]}',
        b'{"choices": [{"delta": {"content": null}}], "usage": {"completion_tokens": "9"}}',
        b'{"usage": {"completion_tokens": -1}, "error": null}',
        b'{"usage": true}',
    ],
)
def test_odd_chunks_are_no_text(chunk):
    answer = follow(b"data: " + chunk + b"\n\n", event("a"), DONE)
    assert (answer.first, answer.tokens, answer.counted, answer.failure) == (2.0, 1, "chunks", None)


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ({"error": {"message": "m", "type": "t", "code": "c"}}, "c", "m"),
        ({"error": {"message": "m", "type": "t", "code": None}}, "t", "m"),
        ({"object": "error", "message": "m", "code": 400}, "400", "m"),
        ({"detail": "Not Found"}, None, "Not Found"),
        ({"error": "text"}, None, "text"),
        ([], None, ""),
        (None, None, ""),
        ({"error": {"code": ["list"], "message": {"a": 1}}}, None, "{'a': 1}"),
        ({"error": {"message": "x" * 1000}}, None, "x" * 200),
    ],
)
def test_errors_of_servers(body, code, message):
    assert failure_of("http", body, 400) == Failure("http", 400, code, message)
