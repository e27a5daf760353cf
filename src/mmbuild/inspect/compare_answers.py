"""The answers of several builds to the same questions, from their reports.

For somebody who changes the backend, the precision or the version of a recipe: which questions are answered
differently now, and what the source model says. Reports of backend tensorrt-llm hold answers only; others also hold
those of the source model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmbuild.base.field_checks import integer, list_of, optional, record, text
from mmbuild.inspect.compare_builds import compares_nothing, latest_report, require_report

_MANY = 1_000_000
_TEXT = optional(text(_MANY))
_COMPARED = record(
    {
        "image": integer(1, _MANY),
        "prompt": _TEXT,
        "answers": record({"engine": text(_MANY), "reference": text(_MANY)}, closed=False),
    },
    closed=False,
)
_ANSWERED = record({"image": _TEXT, "prompt": _TEXT, "answer": text(_MANY)}, closed=False)
_TOOLCHAIN = record({"questions": list_of(_ANSWERED, _MANY)}, closed=False)


@dataclass(frozen=True, slots=True)
class Question:
    """A question and where its picture is.

    Attributes:
        image: Number of the picture in the report, from 1; 0 if there is none.
        prompt: The prompt; None: the family's own.
        picture: Digest of the picture's pixels; None if the report does not have it.
    """

    image: int
    prompt: str | None
    picture: str | None = None


@dataclass(frozen=True, slots=True)
class Answers:
    """What a report says.

    Attributes:
        build: The build's directory.
        given: The build's answers.
        reference: Those of the source model; empty for backend tensorrt-llm.
        pictures: Whether its questions have digests of pictures.
    """

    build: str
    given: Mapping[Question, str]
    reference: Mapping[Question, str]
    pictures: bool

    def key(self, other: Answers) -> Callable[[Question], _Key]:
        """What a question is known by in this report and ``other``: digests of pictures if both have them."""
        return _by_digest if self.pictures and other.pictures else _by_number


_Key = tuple[str | int | None, str | None]


def _by_digest(question: Question) -> _Key:
    return question.picture, question.prompt


def _by_number(question: Question) -> _Key:
    return question.image, question.prompt


def side_by_side(builds: Sequence[str | Path]) -> dict[str, Any]:
    """Answers of ``builds`` to the questions that all of them were asked.

    A picture is known by its digest, or, beside a report that has none, by its number.

    Returns:
        Plain data: ``builds`` (directories), ``questions``: ``image``, ``prompt``, ``answers`` (in the order of
        ``builds``), ``model`` (the source model's answer; None if no report has it), ``equal`` (whether all builds
        agree); ``left_out``: directories of builds without a report.

    Raises:
        CompareError: MM596, a report is damaged or has another version.
    """
    found = {str(build): read(Path(build)) for build in builds}
    asked = [answers for answers in found.values() if answers is not None]
    return {
        "version": 1,
        "builds": [answers.build for answers in asked],
        "questions": list(_shared(asked)) if asked else [],
        "left_out": [build for build, answers in found.items() if answers is None],
    }


def _shared(asked: Sequence[Answers]) -> Iterator[dict[str, Any]]:
    first = asked[0]
    keys = [answers.key(first) for answers in asked]
    given = [_keyed(answers.given, key) for answers, key in zip(asked, keys, strict=True)]
    models = [_keyed(answers.reference, key) for answers, key in zip(asked, keys, strict=True)]
    for question in first.given:
        own = [key(question) for key in keys]
        answers = [known.get(key) for known, key in zip(given, own, strict=True)]
        if None not in answers:
            model = (known.get(key) for known, key in zip(models, own, strict=True))
            yield {
                "image": question.image,
                "prompt": question.prompt,
                "answers": answers,
                "model": next((answer for answer in model if answer is not None), None),
                "equal": len(set(answers)) == 1,
            }


def _keyed(answers: Mapping[Question, str], key: Callable[[Question], _Key]) -> dict[_Key, str]:
    return {key(question): answer for question, answer in answers.items()}


def read(build: Path) -> Answers | None:
    """The answers in the latest report of a build; None if it has no report.

    Raises:
        CompareError: MM596, the report is damaged or has another version.
    """
    path, report = latest_report(build)
    if report is None:
        return None
    if compares_nothing(report):
        return _of_toolchain(build, path, report)
    require_report(path, list_of(_COMPARED, _MANY)(report["questions"], "questions"))
    questions = [
        (Question(item["image"], item["prompt"], report["pictures"][item["image"] - 1]), item["answers"])
        for item in report["questions"]
    ]
    return Answers(
        str(build),
        {question: answers["engine"] for question, answers in questions},
        {question: answers["reference"] for question, answers in questions},
        pictures=True,
    )


def _of_toolchain(build: Path, path: Path, report: Mapping[str, Any]) -> Answers:
    """Answers of backend tensorrt-llm, whose report names pictures by their files."""
    require_report(path, _TOOLCHAIN(report, ""))
    names = list(dict.fromkeys(item["image"] for item in report["questions"] if item["image"] is not None))
    numbers = {name: number for number, name in enumerate(names, start=1)}
    given = {
        Question(numbers.get(item["image"], 0), item["prompt"]): item["answer"]
        for item in report["questions"]
    }
    return Answers(str(build), given, {}, pictures=False)
