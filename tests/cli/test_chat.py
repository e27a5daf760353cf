"""``mmbuild chat`` as a user types it."""

from __future__ import annotations

import io
import json
import signal

import pytest

from demo_worlds import ask
from mmbuild.cli import main
from mmbuild.cli.chat import _lines
from support.engines.loaded import demo_directory, demo_engine

pytestmark = pytest.mark.slow


def chat(capsys, monkeypatch, text: str, *arguments: str):
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    assert main(["chat", str(demo_directory()), *arguments]) == 0
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured


def test_a_question_about_a_picture_and_one_without(capsys, monkeypatch, tmp_path) -> None:
    first, second = ask("llava", 31, 2, held_out=False)
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for asked, path in zip((first, second), paths, strict=True):
        asked.pictures[0].save(path)
    saved = tmp_path / "talk.json"
    typed = (
        f"{first.question}\n/save {saved}\n/reset\n/image {paths[1]}\n{second.question}\n/quit\nnever read\n"
    )
    captured = chat(capsys, monkeypatch, typed, "--image", str(paths[0]))
    assert captured.out.splitlines() == [first.answer, second.answer]
    assert "note: the new conversation has no picture; show one with `/image FILE`\n" in captured.err
    asked, answered = json.loads(saved.read_text())
    assert asked["content"][0]["image_url"]["url"] == str(paths[0])
    assert answered["content"] == [{"type": "text", "text": first.answer}]


def test_what_cannot_be_done_is_said_and_the_conversation_goes_on(capsys, monkeypatch, tmp_path) -> None:
    asked = ask("llava", 32, 1, held_out=False)[0]
    asked.pictures[0].save(tmp_path / "a.png")
    typed = "\n".join(
        [
            f"/image {tmp_path / 'none.png'}",
            f"/save {tmp_path}",
            "/unknown",
            "word " * 500,
            f"/image {tmp_path / 'a.png'}",
            asked.question,
        ]
    )
    captured = chat(capsys, monkeypatch, typed)
    assert captured.out.splitlines() == [asked.answer]
    assert "[MM517]" in captured.err
    assert "Is a directory" in captured.err
    assert "[MM512]" in captured.err
    assert "no command `/unknown`" in captured.err
    assert captured.err.count("/image FILE") == 2, "help at the start and after what is unknown"


@pytest.mark.parametrize("count", ["0", "-1", "100000"])
def test_more_tokens_than_the_engine_gives_are_refused_before_it_is_loaded(
    capsys, monkeypatch, count
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("what colour ?\n"))
    assert main(["chat", str(demo_directory()), "--max-new-tokens", count]) == 1
    reported = capsys.readouterr().err
    assert "[MM515]" in reported
    assert "loading" not in reported


def test_ctrl_c_ends_an_answer_and_keeps_what_was_said(capsys, monkeypatch) -> None:
    def interrupted(*_):
        yield "there"
        signal.raise_signal(signal.SIGINT)
        yield " are"
        pytest.fail("the answer goes on")

    monkeypatch.setattr(type(demo_engine()), "stream_text", interrupted)
    captured = chat(capsys, monkeypatch, "how many shapes ?\nand now ?\n")
    assert captured.out.splitlines() == ["there are ...", "there are ..."]


def test_a_second_ctrl_c_ends_the_conversation(capsys, monkeypatch) -> None:
    def stuck(*_):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        yield "never"

    monkeypatch.setattr(type(demo_engine()), "stream_text", stuck)
    monkeypatch.setattr("sys.stdin", io.StringIO("how many shapes ?\n"))
    assert main(["chat", str(demo_directory())]) == 130
    assert capsys.readouterr().out == ""
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_at_the_prompt_says_how_to_end(capsys, monkeypatch) -> None:
    typed = iter(["how many ?", KeyboardInterrupt(), "and now ?", EOFError()])

    def read(_prompt: str) -> str:
        event = next(typed)
        if isinstance(event, str):
            return event
        raise event

    monkeypatch.setattr("builtins.input", read)
    assert list(_lines()) == ["how many ?", "and now ?"]
    assert capsys.readouterr().err == "\n(Ctrl-D ends)\n"
