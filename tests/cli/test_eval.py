"""``mmbuild eval`` as a user sees it, and its results in ``mmbuild compare``."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from mmbuild.backends.base import Answer, Answers
from mmbuild.base.errors import MmbuildError
from mmbuild.cli import main
from mmbuild.cli.eval import receive
from mmbuild.evaluation.answers.document import as_text
from mmbuild.models.errors import EngineError
from support import TESTS
from support.engines import demo as demo_engines
from support.engines.loaded import demo_directory
from support.evaluated import question, result
from support.pages import ROOT
from support.terminal import Terminal

QUESTIONS = ROOT / "examples" / "pictures" / "questions.jsonl"
DEFAULTS = {
    "engine": {"name": "shapes"},
    "data": "questions.jsonl",
    "settings": {},
    "headline": "normalized",
    "min_score": None,
    "listed": None,
    "output": None,
    "as_json": False,
}


def answers(texts: Iterable[str | BaseException], notes: tuple[str, ...] = ()) -> Answers:
    """Answers of an engine that ends with an exception among ``texts``, if there is one."""

    def given() -> Iterator[Answer]:
        for text in texts:
            if isinstance(text, BaseException):
                raise text
            yield Answer((), "how many ?", (text,), notes=notes)

    return Answers(given())


def received(texts: list[str | BaseException], count: int = 0, **more: object) -> None:
    questions = [question(number) for number in range(1, (count or len(texts)) + 1)]
    receive(answers(texts), "text", questions=questions, **{**DEFAULTS, **more})


def test_scores_and_wrong_answers_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    received(["two", "Two.", "three"])
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = captured.out.splitlines()
    assert lines[2].startswith("normalized *  0.667  ")
    assert lines[4:] == [
        "3 questions answered",
        "",
        "line 3: normalized 0.000  3.png",
        "  prompt    how many ?",
        "  expected  two",
        "  answer    three",
    ]


def test_the_file_and_the_json_are_the_same(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    received(["two", "three"], output=str(tmp_path / "a.json"), as_json=True)
    printed = capsys.readouterr().out
    assert printed == (tmp_path / "a.json").read_text("utf-8")
    assert [one["answer"] for one in json.loads(printed)["answers"]] == ["two", "three"]


def test_scores_are_printed_even_if_the_file_cannot_be_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(OSError, match="directory"):
        received(["two"], output=str(tmp_path))
    assert "1 question answered" in capsys.readouterr().out


def test_notes_about_pictures_are_printed_once(capsys: pytest.CaptureFixture[str]) -> None:
    note = "`a.png`: 16 bits were scaled to 8"
    questions = [question(1), question(2)]
    receive(answers(["two", "two"], (note,)), "text", questions=questions, **DEFAULTS)
    assert capsys.readouterr().err == f"note: {note}\n"


@pytest.mark.parametrize(
    ("right", "least", "words"),
    [
        (1, 0.9, "score `normalized` is 0.05, but --min-score requires 0.9"),
        (
            17,
            0.9,
            "score `normalized` is 0.85, but --min-score requires 0.9; its 95 % interval, 0.700 to 1.000, ",
        ),
    ],
)
def test_a_low_score_fails_after_it_is_shown(
    right: int, least: float, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(MmbuildError) as caught:
        received(["two"] * right + ["three"] * (20 - right), min_score=least)
    assert (caught.value.code, caught.value.exit_status) == ("MM892", 1)
    assert caught.value.message.startswith(words)
    assert ("contains 0.9" in caught.value.message) == (right == 17)
    assert "20 questions answered" in capsys.readouterr().out


def test_a_score_that_is_high_enough_passes() -> None:
    received(["two", "three"], min_score=0.5)
    received(["two", "three"], min_score=0.0)
    with pytest.raises(MmbuildError):
        received(["two", "about two"], min_score=0.9, headline="f1")


def test_an_interrupt_shows_what_was_answered(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "a.json"
    with pytest.raises(KeyboardInterrupt):
        received(["two", KeyboardInterrupt()], count=5, output=str(out), min_score=1.0)
    assert "1 question answered, 4 not answered" in capsys.readouterr().out
    assert json.loads(out.read_text())["missing"] == 4


def test_an_interrupt_before_the_first_answer_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt):
        received([KeyboardInterrupt()])
    assert capsys.readouterr().out == ""


def test_a_failure_names_the_question_and_keeps_what_was_answered(capsys: pytest.CaptureFixture[str]) -> None:
    problem = EngineError("prompt 1 has 200 tokens", code="MM512", hint="shorten it")
    with pytest.raises(EngineError) as caught:
        received(["two", problem], count=3)
    assert caught.value.message == (
        "prompt 1 has 200 tokens, in the batch of questions that begins at questions.jsonl:2"
    )
    assert (caught.value.code, caught.value.hint) == ("MM512", "shorten it")
    assert "1 question answered, 2 not answered" in capsys.readouterr().out


def evaluate(capsys: pytest.CaptureFixture[str], *words: object, status: int = 0) -> tuple[str, str]:
    assert main(["eval", *map(str, words)]) == status
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.out, captured.err


def test_the_data_are_checked_before_the_engine(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    data = tmp_path / "a.jsonl"
    data.write_text('{"prompt": "q", "answr": "x"}\n{"image": "../x.png", "answer": "x"}\n')
    _, err = evaluate(capsys, tmp_path / "missing", "--data", data, status=1)
    assert f"{data}:1:17: error: unknown key `answr` [MM890]" in err
    assert f"{data}:2:2: error: picture `../x.png` is outside `{tmp_path}` [MM891]" in err
    assert "hint: name pictures below the directory" in err
    _, err = evaluate(capsys, tmp_path / "missing", "--data", tmp_path / "none.jsonl", status=1)
    assert "[MM890]" in err


def test_options_that_do_not_fit(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = (tmp_path, "--data", QUESTIONS)
    assert "[MM893]" in evaluate(capsys, *words, "-o", tmp_path / "none" / "a.json", status=2)[1]
    assert "--min-score" in evaluate(capsys, *words, "--min-score", "1.5", status=2)[1]
    assert "--data" in evaluate(capsys, tmp_path, status=2)[1]
    assert "[MM" in evaluate(capsys, tmp_path, "--data", QUESTIONS, status=1)[1]


@pytest.mark.slow
def test_an_engine_is_scored(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = (demo_directory(), "--data", QUESTIONS)
    out, err = evaluate(capsys, *words, "-o", tmp_path / "a.json")
    assert "normalized *  0.917" in out
    assert "line 12: normalized 0.000  green-circle-top-right.png" in out
    assert err == ""
    # Batches do not change answers, and two runs agree.
    evaluate(capsys, *words, "--batch", "1", "-o", tmp_path / "b.json")
    first, second = (json.loads((tmp_path / name).read_text()) for name in ("a.json", "b.json"))
    assert first["answers"] == second["answers"]
    assert first["scores"] == second["scores"]
    assert first["settings"] == {"max_new_tokens": None, "batch": 4, "limit": None}
    out, _ = evaluate(capsys, *words, "--limit", "5", "--max-new-tokens", "1", "--questions", "none")
    assert out.endswith("5 questions answered\n")
    assert "[MM892]" in evaluate(capsys, *words, "--min-score", "0.95", status=1)[1]
    assert "batches of 5" in evaluate(capsys, *words, "--batch", "5", status=2)[1]


@pytest.mark.slow
def test_a_question_that_the_engine_refuses_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    data = tmp_path / "a.jsonl"
    line = '{"prompt": "%s", "answer": "x"}\n'
    data.write_text(line % "how many ?" * 4 + line % ("how many ? " * 100))
    out, err = evaluate(capsys, demo_directory(), "--data", data, status=1)
    assert "4 questions answered, 1 not answered" in out
    assert f"in the batch of questions that begins at {data}:5 [MM512]" in err


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_an_interrupt_on_a_terminal(ranks: int, tmp_path: Path) -> None:
    for file in QUESTIONS.parent.iterdir():
        shutil.copy(file, tmp_path)
    data = tmp_path / QUESTIONS.name
    data.write_text(data.read_text("utf-8") * 500, "utf-8")
    build = demo_directory() if ranks == 1 else demo_engines.directory("llava", tensor_parallel=ranks)
    out = tmp_path / "a.json"
    words = ["eval", str(build), "--data", str(data), "-o", str(out), "--questions", "none", "--batch", "1"]
    terminal = Terminal(words, tmp_path, environment())
    terminal.read_until("2 of 6,000 answered", 120)
    terminal.press("\x03")
    assert terminal.finish(60) == 130
    assert "Traceback" not in terminal.shown
    assert "interrupted" in terminal.shown.splitlines()[-1]
    saved = json.loads(out.read_text("utf-8"))
    assert 2 <= len(saved["answers"]) == 6_000 - saved["missing"] < 6_000
    assert f"{len(saved['answers']):,} questions answered" in terminal.shown


def environment() -> dict[str, str]:
    import os

    places = os.pathsep.join([str(TESTS.parent / "src"), str(TESTS)])
    return {**os.environ, "NO_COLOR": "1", "PYTHONPATH": places}


@pytest.mark.slow
def test_an_engine_of_two_ranks_answers_as_one(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    build = demo_engines.directory("llava", tensor_parallel=2)
    words = [
        "eval",
        str(build),
        "--data",
        str(QUESTIONS),
        "--min-score",
        "0.95",
        "-o",
        str(tmp_path / "a.json"),
    ]
    assert main(words) == 1
    captured = capfd.readouterr()
    assert "normalized *  0.917" in captured.out
    assert "[MM892]" in captured.err


@pytest.fixture
def results(tmp_path: Path) -> list[str]:
    for name, texts in (("a", ["two", "three", "two", "two"]), ("b", ["two", "two", "two", "two"])):
        (tmp_path / f"{name}.json").write_text(as_text(result(texts)), encoding="utf-8")
    return [str(tmp_path / "a.json"), str(tmp_path / "b.json")]


def test_compare_shows_the_paired_difference(results: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *results]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "score       result  mean   95 % interval   difference to a  95 % interval"
    assert lines[1] == "exact       a       0.750  0.250 to 1.000  -                -"
    assert lines[2] == "exact       b       1.000  1.000 to 1.000  +0.250           +0.000 to +0.750"
    assert len(lines) == 7


def test_compare_of_results_as_json(results: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *results, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert [one["label"] for one in data["evaluations"]] == ["a", "b"]
    assert "results" not in data


def test_compare_refuses_a_damaged_result(results: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(results[0])
    path.write_text(path.read_text("utf-8").replace('"answer": "three"', '"answer": 3'), "utf-8")
    assert main(["compare", *results]) == 1
    assert "[MM894]" in capsys.readouterr().err


def test_compare_takes_results_of_eval_and_bench_together(
    results: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from mmbuild.serving.bench import document as bench
    from support import measured

    (tmp_path / "speed.json").write_text(bench.as_text(measured.result()))
    assert main(["compare", *results, str(tmp_path / "speed.json")]) == 0
    out = capsys.readouterr().out
    assert out.index("tokens/s") < out.index("difference to a")
