"""Chunks in the form of OpenAI's protocol."""

from __future__ import annotations

import json

import pytest

from mmbuild.serving.answers import Form


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("index", [0, 3])
@pytest.mark.parametrize("text", [" three", '"quoted"\n\\', "\0", "é\N{SNOWMAN}\U0001f600", "", "\ud800"])
def test_a_chunk_of_text_is_the_same_from_its_frame(chat, index, text) -> None:
    form = Form(chat, 'a "model"', str)
    for _ in range(2):
        assert form.text_chunk(index, text) == json.dumps(form.chunk(index, text))
