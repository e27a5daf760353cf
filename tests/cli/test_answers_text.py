"""Lines of ``mmbuild compare --answers``."""

from inline_snapshot import snapshot

from mmbuild.cli.answers_text import answer_lines

ANSWERS = {
    "builds": ["build/old", "build/new-one"],
    "left_out": ["build/bare"],
    "questions": [
        {"image": 1, "prompt": "what ?", "answers": ["star", "star"], "model": "star", "equal": True},
        {"image": 2, "prompt": "where ?", "answers": ["left", "right"], "model": None, "equal": False},
    ],
}


def test_questions_that_builds_answer_differently_are_listed():
    assert list(answer_lines(ANSWERS, only_different=True)) == snapshot(
        [
            "answers: 1 of 2 questions are answered alike",
            "  `build/bare` has no report; `mmbuild verify` writes one",
            "",
            "image 2, where ?",
            "  old           left",
            "  new-one       right",
        ]
    )


def test_all_questions_are_listed_with_the_model_s_answer():
    lines = list(answer_lines(ANSWERS, only_different=False))
    assert lines[3:7] == [
        "image 1, what ?",
        "  source model  star",
        "  old           star",
        "  new-one       star",
    ]


def test_nothing_in_common_is_said():
    lines = list(answer_lines({**ANSWERS, "questions": [], "left_out": []}, only_different=True))
    assert lines == ["answers: no question was asked of all builds"]


def test_builds_with_the_same_name_are_told_apart_by_their_directories():
    same = {**ANSWERS, "builds": ["a/build", "b/build"]}
    assert any(line.startswith("  b/build ") for line in answer_lines(same, only_different=True))


def test_control_characters_in_answers_are_made_visible():
    hostile = {**ANSWERS, "questions": [{**ANSWERS["questions"][1], "answers": ["\x1b[31mred", "x\ny"]}]}
    lines = list(answer_lines(hostile, only_different=True))
    assert not any("\x1b" in line or "\n" in line for line in lines)
