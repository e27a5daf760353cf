"""What is understood of a request, and what is refused by name."""

from __future__ import annotations

import json

import pytest

from mmbuild.serving.errors import ProtocolError
from mmbuild.serving.protocol import Chat, Completion, parse

HELLO = {"messages": [{"role": "user", "content": "hello"}]}


def chat(**fields):
    return parse(json.dumps({**HELLO, **fields}).encode(), Chat)


def refused(body: bytes, kind=Chat) -> ProtocolError:
    with pytest.raises(ProtocolError) as error:
        parse(body, kind)
    assert (error.value.code, error.value.status) == ("MM874", 400)
    return error.value


def test_fields_without_an_effect_are_ignored() -> None:
    parsed = chat(
        user="somebody", metadata={"a": "b"}, store=False, parallel_tool_calls=True, tools=[], n=None
    )
    assert parsed.messages[0].content == "hello"


def test_a_single_stop_string_is_a_list_of_one() -> None:
    assert chat(stop="\n").stop == ["\n"]
    assert chat(stop=["a", "b"]).stop == ["a", "b"]
    assert parse(b'{"prompt": "x"}', Completion).prompt == ["x"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tools", [{"type": "function"}]),
        ("response_format", {"type": "json_object"}),
        ("logit_bias", {"5": 10}),
        ("presence_penalty", 0.5),
        ("repetition_penalty", 1.2),
    ],
)
def test_what_would_change_the_answer_is_not_ignored(name, value) -> None:
    assert refused(json.dumps({**HELLO, name: value}).encode()).param == name


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 1000}, "n"),
        ({"seed": 1 << 63}, "seed"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": [""]}, "stop.0"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages.0.content"),
        ({"stream": "yes"}, "stream"),
    ],
)
def test_a_wrong_field_is_named(fields, where) -> None:
    error = refused(json.dumps({**HELLO, **fields}).encode())
    assert error.param is not None
    assert error.param.startswith(where)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"\xff\xfe", b"1", b'{"messages": ' + b"[" * 100_000, b'{"prompt": "x"}']
)
def test_what_is_no_request_is_refused(body) -> None:
    refused(body)


def test_nan_is_no_temperature() -> None:
    refused(b'{"messages": [{"role": "user", "content": "x"}], "temperature": NaN}')
