"""A conversation forgets its oldest messages when the engine cannot read all of it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from mmbuild.models.errors import EngineError
from mmbuild.serving.conversation import Conversation
from support.serving.fakes import FakeEngine

PICTURE = Path(__file__).parents[2] / "examples" / "pictures" / "three-red-stars.png"


@pytest.fixture
def engine():
    """It reads 50 tokens, a word each, and one picture."""
    made = FakeEngine()
    made.config.max_multimodal_len = 16
    made.visual = SimpleNamespace(config=SimpleNamespace(num_visual_features=16))
    return made


def words(count: int) -> str:
    return " ".join(["1"] * count)


def ask(talk: Conversation, engine, count: int, *pictures: Path) -> int:
    """Say something of ``count`` words, get an answer of five; the tokens that were read."""
    talk.say("user", words(count), pictures)
    read = len(talk.request(engine).ids)
    talk.say("assistant", words(5))
    return read


def test_all_of_it_is_read_while_it_fits(engine) -> None:
    talk = Conversation()
    assert [ask(talk, engine, 10) for _ in range(3)] == [10, 25, 40]
    assert talk.forgotten == 0


def test_the_oldest_questions_go_with_their_answers(engine) -> None:
    talk = Conversation()
    assert [ask(talk, engine, 20) for _ in range(4)] == [20, 45, 45, 45]
    assert talk.forgotten == 4
    assert len(talk.messages) == 8, "they are still saved"


def test_a_new_picture_takes_the_place_of_an_old_one(engine) -> None:
    talk = Conversation()
    assert ask(talk, engine, 3, PICTURE) == 3
    assert ask(talk, engine, 3) == 11
    assert ask(talk, engine, 3, PICTURE) == 11, "the second question and its answer are kept"


def test_a_message_that_is_too_long_by_itself_is_refused(engine) -> None:
    talk = Conversation()
    ask(talk, engine, 3)
    talk.say("user", words(51))
    with pytest.raises(EngineError) as refused:
        talk.request(engine)
    assert refused.value.code == "MM512"


def test_a_model_without_a_template_reads_the_last_message(engine, monkeypatch) -> None:
    import dataclasses

    monkeypatch.setattr(engine, "processor", dataclasses.replace(engine.processor, encode_chat=None))
    talk = Conversation()
    assert [ask(talk, engine, count) for count in (4, 7, 2)] == [4, 7, 2]


def test_it_is_saved_as_messages(engine, tmp_path) -> None:
    talk = Conversation()
    ask(talk, engine, 2, PICTURE)
    talk.save(tmp_path / "talk.json")
    asked, answered = json.loads((tmp_path / "talk.json").read_text())
    assert [part["type"] for part in asked["content"]] == ["image_url", "text"]
    assert asked["content"][0]["image_url"]["url"] == str(PICTURE)
    assert (answered["role"], answered["content"][0]["text"]) == ("assistant", words(5))


def test_bytes_that_are_no_text_are_refused_and_can_be_saved_in_a_path(engine, tmp_path) -> None:
    talk = Conversation()
    talk.say("user", "a\udcff")
    with pytest.raises(EngineError, match="not Unicode text") as refused:
        talk.request(engine)
    assert refused.value.code == "MM785"
    talk.take_back()
    talk.say("user", "1", [Path("a\udcff.png")])
    talk.save(tmp_path / "talk.json")
    [saved] = json.loads((tmp_path / "talk.json").read_text())
    assert saved["content"][0]["image_url"]["url"] == "a\udcff.png"
