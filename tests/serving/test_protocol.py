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


def test_fields_with_the_values_that_change_nothing_are_taken() -> None:
    chat(min_p=0, min_tokens=0, stop_token_ids=[], skip_special_tokens=True, add_generation_prompt=True)
    assert (chat(temperature=1).temperature, chat(top_p=0.5).top_p) == (1.0, 0.5)


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
        ("min_p", 0.1),
        ("min_tokens", 5),
        ("stop_token_ids", [7]),
        ("guided_choice", ["yes", "no"]),
        ("skip_special_tokens", False),
        ("add_generation_prompt", False),
        ("continue_final_message", True),
        ("chat_template", "{{ x }}"),
    ],
)
def test_what_would_change_the_answer_is_not_ignored(name, value) -> None:
    assert refused(json.dumps({**HELLO, name: value}).encode()).param == name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tool_calls", [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]),
        ("function_call", {"name": "f", "arguments": "{}"}),
        ("audio", {"id": "audio_1"}),
        ("prefix", True),
    ],
)
def test_parts_of_earlier_messages_that_the_model_would_not_read_are_refused(name, value) -> None:
    said = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": None, name: value}]
    error = refused(json.dumps({"messages": [*said, {"role": "user", "content": "and ?"}]}).encode())
    assert error.param == f"messages.1.{name}"
    chat(messages=[{"role": "user", "content": "hi", "tool_calls": None, "prefix": False, "name": "bob"}])


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": "0.5"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": True}, "top_p"),
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


@pytest.mark.parametrize(
    ("content", "where", "message"),
    [
        (5, "content", "valid string"),
        ({}, "content", "valid string"),
        (["hi"], "content.0", "valid dictionary"),
        ([{"text": "a"}], "content.0", "'type'"),
        ([{"type": "input_image", "image_url": "x"}], "content.0", "input_image"),
        ([{"type": "text"}], "content.0.text", "required"),
        ([{"type": "text", "text": 5}], "content.0.text", "valid string"),
        (
            [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": "x"}],
            "content.1.image_url",
            "Url",
        ),
        ([{"type": "image_url", "image_url": {}}], "content.0.image_url.url", "required"),
        ([{"type": "image_url", "image_url": {"url": 5}}], "content.0.image_url.url", "valid string"),
    ],
)
def test_a_wrong_part_of_a_message_is_named(content, where, message) -> None:
    error = refused(json.dumps({"messages": [{"role": "user", "content": content}]}).encode())
    assert error.param == f"messages.0.{where}"
    assert message in error.message


def test_an_error_does_not_repeat_a_long_request() -> None:
    content = [{"type": "x" * 100_000}]
    error = refused(json.dumps({"messages": [{"role": "user", "content": content}]}).encode())
    assert len(error.message) < 500


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (Completion, {"prompt": "x" * 1_000_001}),
        (Chat, {"messages": [{"role": "user", "content": "x" * 500_001}] * 2}),
        (Chat, {"messages": [{"role": "user", "content": [{"type": "text", "text": "x" * 250_001}] * 4}]}),
    ],
)
def test_more_text_than_any_engine_reads_is_refused_before_it_is_tokenized(kind, fields) -> None:
    with pytest.raises(ProtocolError, match="more than 1,000,000 characters") as error:
        parse(json.dumps(fields).encode(), kind)
    assert (error.value.code, error.value.status) == ("MM876", 413)


def test_a_picture_is_not_text() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:," + "x" * 1_000_001}}
    assert list(
        chat(messages=[{"role": "user", "content": [picture, {"type": "text", "text": "a"}]}]).texts()
    ) == ["a"]
