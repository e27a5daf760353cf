"""Answers of several builds to the same questions, as lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmbuild.base.terminal_text import one_line

MODEL = "source model"


def answer_lines(answers: Mapping[str, Any], *, only_different: bool) -> Iterator[str]:
    """The result of :func:`mmbuild.inspect.compare_answers.side_by_side`: a count, then questions with answers.

    Args:
        answers: The result.
        only_different: Leave out questions that all builds answer alike.
    """
    questions = answers["questions"]
    alike = sum(question["equal"] for question in questions)
    yield (
        f"answers: {alike} of {len(questions)} questions are answered alike"
        if questions
        else ("answers: no question was asked of all builds")
    )
    for build in answers["left_out"]:
        yield f"  `{one_line(build)}` has no report; `mmbuild verify` writes one"
    names = _names(answers["builds"])
    width = max(len(name) for name in (MODEL, *names))
    for question in questions:
        if not (only_different and question["equal"]):
            yield from ("", _asked(question))
            for name, answer in zip((MODEL, *names), (question["model"], *question["answers"]), strict=True):
                if answer is not None:
                    yield f"  {name.ljust(width)}  {one_line(answer)}"


def _names(builds: list[str]) -> list[str]:
    short = [Path(build).name for build in builds]
    return [one_line(name) for name in (short if len(set(short)) == len(short) else builds)]


def _asked(question: Mapping[str, Any]) -> str:
    picture = f"image {question['image']}" if question["image"] else "no image"
    return picture if question["prompt"] is None else f"{picture}, {one_line(question['prompt'])}"
