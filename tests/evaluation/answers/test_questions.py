"""Questions of a data set: what a line may say, and what is refused where."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mmbuild.base.codes import lookup
from mmbuild.base.diagnostics import Diagnostic
from mmbuild.base.limits import DATA_LINES
from mmbuild.evaluation.answers.questions import DataError, QuestionsError, key_places, pairs, read
from support.errors import refused


def write(root: Path, *lines: Any) -> Path:
    path = root / "questions.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A directory with three pictures, the third one equal to the first; another one is above it."""
    home = tmp_path / "data"
    (home / "pictures").mkdir(parents=True)
    for name, shade in (("pictures/0.png", 0), ("1.png", 1), ("2.png", 0), ("../above.png", 2)):
        Image.new("RGB", (4, 4), (shade, 0, 0)).save(home / name)
    return home


def findings(path: Path, **options: Any) -> list[Diagnostic]:
    with pytest.raises(QuestionsError) as caught:
        read(path, **options)
    assert all(lookup(item.code) and item.file == str(path) for item in caught.value.diagnostics)
    return list(caught.value.diagnostics)


def test_lines_are_questions(home: Path) -> None:
    path = write(
        home,
        {"image": "pictures/0.png", "prompt": "how many ?", "answer": "two"},
        "",
        {"image": ["1.png", "2.png"], "prompt": "which ?", "answer": ["a", "b"]},
        {"image": None, "prompt": "why ?", "answer": ""},
        {"image": "1.png", "prompt": None, "answer": "page"},
    )
    one, two, three, four = read(path)
    assert (one.line, one.images, one.prompt, one.accepted) == (
        1,
        ("pictures/0.png",),
        "how many ?",
        ("two",),
    )
    assert (two.line, two.images, two.accepted) == (3, ("1.png", "2.png"), ("a", "b"))
    assert (three.images, three.accepted) == ((), ("",))
    assert pairs([one, three, four]) == [
        ((str(home / "pictures/0.png"),), "how many ?"),
        ((), "why ?"),
        ((str(home / "1.png"),), None),
    ]


def test_a_question_is_identified_by_its_content(home: Path) -> None:
    line = {"prompt": "how many ?", "answer": ["2", "two"]}
    same = write(
        home,
        {"image": "pictures/0.png", **line},
        {"image": "2.png", **line},
        {"image": "2.png", "prompt": "how many ?", "answer": ["two", "2"]},
    )
    assert len({question.digest for question in read(same)}) == 1
    others = write(
        home,
        {"image": "1.png", **line},
        {"image": None, **line},
        {"image": "2.png", "prompt": "how much ?", "answer": ["2", "two"]},
        {"image": "2.png", "prompt": "how many ?", "answer": "2"},
        {"image": ["1.png", "2.png"], **line},
        {"image": ["2.png", "1.png"], **line},
    )
    assert len({question.digest for question in read(others)}) == 6


@pytest.mark.parametrize(
    ("line", "column", "words"),
    [
        ("{", 2, "the line is not JSON: Expecting property name"),
        ('{"prompt": "q", "answer": "x"', 30, "the line is not JSON: Expecting ',' delimiter"),
        ("[1]", 1, "must be a JSON object"),
        ('{"prompt": "q", "answer": NaN}', 1, "NaN"),
        ('{"prompt": "q", "prompt": "r", "answer": "x"}', 1, "contains the name `prompt` twice"),
        ('{"prompt": "q", "answer": "x", "picture": "a.png"}', 32, "unknown key `picture`"),
        ('{"prompt": "q"}', 1, "`answer` is missing"),
        ('{"prompt": "q", "answer": null}', 17, "`answer` is null"),
        ('{"prompt": "q", "answer": []}', 17, "`answer` is an array of 0 values"),
        ('{"prompt": "q", "answer": ["x", 7]}', 17, "`answer[1]` is 7"),
        ('{ "prompt" : 7 , "answer": "x"}', 3, "`prompt` is 7"),
        ('{"prompt": "", "answer": "x"}', 2, "`prompt` is empty text"),
        ('{"prompt": "a\\u0000", "answer": "x"}', 2, "`prompt` is"),
        ('{"answer": "x", "image": 7}', 17, "`image` is 7, not a path"),
        ('{"answer": "x", "image": []}', 17, "`image` is an array of 0 values"),
        ('{"answer": "x", "image": "a\\u0000"}', 17, "not a path"),
        ('{"answer": "x"}', 1, "neither `image` nor `prompt`"),
    ],
)
def test_an_invalid_line_is_reported_at_its_place(home: Path, line: str, column: int, words: str) -> None:
    path = write(home, {"prompt": "q", "answer": "x"}, line)
    (item,) = findings(path)
    assert (item.code, item.line, item.column) == ("MM890", 2, column)
    assert words in item.message
    assert item.excerpt == line


def test_all_problems_are_reported_together(home: Path) -> None:
    path = write(home, {"prompt": 7, "answr": "x"}, {"image": "gone.png", "answer": "x"}, "nonsense")
    found = [(item.line, item.code) for item in findings(path)]
    assert found == [(1, "MM890"), (1, "MM890"), (1, "MM890"), (2, "MM891"), (3, "MM890")]
    assert next(item for item in findings(path) if "answr" in item.message).suggestion == "answer"


def test_the_list_of_problems_ends(home: Path) -> None:
    assert len(findings(write(home, *["x"] * 500))) == 100


@pytest.mark.parametrize("how", ["absolute", "upwards", "link"])
def test_pictures_outside_the_data_are_read_only_if_that_is_allowed(home: Path, how: str) -> None:
    (home / "link.png").symlink_to(home.parent / "above.png")
    name = {"absolute": str(home.parent / "above.png"), "upwards": "../above.png", "link": "link.png"}[how]
    path = write(home, {"image": name, "answer": "x"})
    (item,) = findings(path)
    assert (item.code, f"picture `{name}` is outside" in item.message) == ("MM891", True)
    assert "--allow-outside" in (item.hint or "")
    assert len(read(path, allow_outside=True)) == 1


def test_pictures_that_cannot_be_used(home: Path) -> None:
    (home / "text.png").write_text("no picture")
    (home / "loop.png").symlink_to("loop.png")
    path = write(
        home, *({"image": name, "answer": "x"} for name in ("gone.png", "text.png", "loop.png", "."))
    )
    gone, text, loop, directory = findings(path)
    assert "No such file" in gone.message
    assert "not a picture" in text.message
    assert loop.code == "MM891"
    assert "is a directory" in directory.message


def test_only_as_many_lines_as_requested_are_read(home: Path) -> None:
    path = write(home, {"prompt": "q", "answer": "x"}, "", {"prompt": "r", "answer": "x"}, "broken")
    assert [question.line for question in read(path, limit=2)] == [1, 3]
    assert len(findings(path, limit=3)) == 1


def test_files_without_questions(home: Path) -> None:
    assert "contains no questions" in refused(DataError, "MM890", read, write(home, "", " ")).message
    assert "No such file" in refused(DataError, "MM890", read, home / "gone.jsonl").message
    assert "is a directory" in refused(DataError, "MM890", read, home).message
    many = home / "many.jsonl"
    many.write_bytes(b"\n" * (DATA_LINES + 1))
    assert f"more than {DATA_LINES:,} lines" in refused(DataError, "MM890", read, many).message
    long = home / "long.jsonl"
    long.write_bytes(b"[" * 2_000_000)
    assert "longer than" in refused(DataError, "MM890", read, long).message


def test_bytes_that_are_not_text_are_a_finding(home: Path) -> None:
    path = home / "binary.jsonl"
    path.write_bytes(b"\xff\xfe\n")
    assert "not UTF-8" in findings(path)[0].message


def test_places_of_keys() -> None:
    line = ' { "a\\"b" : [1, {"c": "}"}] ,"é":null, "c" :1e5}'
    places = key_places(line)
    assert list(places) == ['a"b', "é", "c"]
    assert [line[at - 1 : at - 1 + width] for at, width in places.values()] == ['"a\\"b"', '"é"', '"c"']
    assert key_places("{}") == {}
