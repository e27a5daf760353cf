"""Chunks in the form of OpenAI's protocol."""

from __future__ import annotations

import json

import pytest

from mmbuild.serving.answers import Form
from mmbuild.serving.jobs import TokenLogprob


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("index", [0, 3])
@pytest.mark.parametrize("text", [" three", '"quoted"\n\\', "\0", "é\N{SNOWMAN}\U0001f600", "", "\ud800"])
def test_a_chunk_of_text_is_the_same_from_its_frame(chat, index, text) -> None:
    form = Form(chat, 'a "model"', str)
    for _ in range(2):
        assert form.text_chunk(index, text) == json.dumps(form.chunk(index, text))


SPELLED = {1: "a", 2: " a", 3: "a", 4: "\N{REPLACEMENT CHARACTER}", 5: "\N{REPLACEMENT CHARACTER}", 6: "é"}


def test_of_tokens_with_the_same_text_the_likeliest_is_shown() -> None:
    value = TokenLogprob(1, -0.1, ((1, -0.1), (2, -1.0), (3, -2.0), (4, -3.0), (5, -4.0)))
    shown = Form(False, "model", SPELLED.__getitem__).logprobs([value])
    assert shown["top_logprobs"] == [{"a": -0.1, " a": -1.0, "\N{REPLACEMENT CHARACTER}": -3.0}]


def test_the_bytes_of_a_part_of_a_character_are_not_made_up() -> None:
    value = TokenLogprob(4, -0.1, ((4, -0.1), (6, -1.0)))
    [shown] = Form(True, "model", SPELLED.__getitem__).logprobs([value])["content"]
    assert [one["bytes"] for one in (shown, *shown["top_logprobs"])] == [None, None, [0xC3, 0xA9]]
