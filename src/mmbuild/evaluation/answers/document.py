"""The result of ``mmbuild eval`` as a JSON document."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mmbuild._version import __version__
from mmbuild.base.documents import Kind
from mmbuild.base.errors import MmbuildError
from mmbuild.base.field_checks import (
    any_value,
    digest,
    integer,
    list_of,
    mapping_of,
    number,
    one_of,
    optional,
    record,
    text,
    word,
)
from mmbuild.base.files import FileRefusedError, read_beginning
from mmbuild.base.limits import MEASUREMENTS
from mmbuild.evaluation.answers.scores import SCORES, scores_of
from mmbuild.evaluation.statistics import Estimate, bootstrap_mean

FORMAT, VERSION = "mmbuild-eval", 1
_DIGITS = 6
_MANY = 1_000_000
_BEGINNING = 1_000
_OURS = re.compile(rb'"format"\s*:\s*"mmbuild-eval"')

_SHARE = number(0, 1)
_ANSWER = record(
    {
        "line": integer(1, _MANY),
        "digest": digest,
        "images": list_of(text(4_000), 100),
        "prompt": optional(text(_MANY)),
        "accepted": list_of(text(_MANY), 1_000, least=1),
        "answer": text(_MANY),
        "scores": record(dict.fromkeys(SCORES, _SHARE)),
    }
)
_SCORE = record(
    {"mean": _SHARE, "error": optional(_SHARE), "interval": optional(list_of(_SHARE, 2, least=2))}
)
_DOCUMENT = record(
    {
        "mmbuild": word,
        "date": word,
        "engine": record({"name": word}, closed=False),
        "data": text(4_000),
        "settings": mapping_of(any_value, 100),
        "headline": one_of(*SCORES),
        "missing": integer(0, _MANY),
        "scores": record(dict.fromkeys(SCORES, _SCORE)),
        "answers": list_of(_ANSWER, _MANY, least=1),
    },
    closed=False,
)


class ResultError(MmbuildError):
    """A file is not a result of this version of eval (MM894)."""


def document(
    engine: Mapping[str, Any],
    data: str,
    settings: Mapping[str, Any],
    headline: str,
    questions: Sequence[Mapping[str, Any]],
    answers: Sequence[str],
    when: datetime,
) -> dict[str, Any]:
    """The document.

    Args:
        engine: The engine and its precision; ``name`` is required.
        data: Path of the data set, as given.
        settings: How questions were asked: ``max_new_tokens``, ``batch``, ``limit``.
        headline: The score that a gate compares, one of :data:`~mmbuild.evaluation.answers.scores.SCORES`.
        questions: Fields of each :class:`~mmbuild.evaluation.answers.questions.Question`.
        answers: Answers to the first of them, at least one.
        when: The time.

    Returns:
        ``format``, ``version``, ``mmbuild`` (its version), ``date`` (UTC), ``engine``, ``data``, ``settings``,
        ``headline``, ``missing`` (number of questions without an answer, because the evaluation ended early),
        ``scores`` (name -> ``mean``, ``error`` and 95 % ``interval``, 0 to 1) and ``answers``, each with ``line``,
        ``digest``, ``images``, ``prompt``, ``accepted``, ``answer`` and its ``scores``.
    """
    answered = [_answer(*pair) for pair in zip(questions, answers, strict=False)]
    return {
        "format": FORMAT,
        "version": VERSION,
        "mmbuild": __version__,
        "date": when.astimezone(UTC).isoformat(timespec="seconds"),
        "engine": dict(engine),
        "data": data,
        "settings": dict(settings),
        "headline": headline,
        "missing": len(questions) - len(answered),
        "scores": {
            name: estimate_as_json(bootstrap_mean([one["scores"][name] for one in answered]))
            for name in SCORES
        },
        "answers": answered,
    }


def _answer(question: Mapping[str, Any], answer: str) -> dict[str, Any]:
    fields = {name: question[name] for name in ("line", "digest", "prompt")}
    lists = {name: list(question[name]) for name in ("images", "accepted")}
    return {**fields, **lists, "answer": answer, "scores": scores_of(answer, question["accepted"])}


def estimate_as_json(estimate: Estimate) -> dict[str, Any]:
    """``mean``, ``error`` and ``interval`` of an estimate; the last two are None for a single question."""
    interval = estimate.interval and [_rounded(end) for end in estimate.interval]
    error = None if estimate.error is None else _rounded(estimate.error)
    return {"mean": _rounded(estimate.value), "error": error, "interval": interval}


def _rounded(value: float) -> float:
    return round(value, _DIGITS) + 0.0  # not -0.0, which is shown with its sign


def as_text(result: Mapping[str, Any]) -> str:
    """The document as JSON, one line per answer."""
    lines = ",\n  ".join(json.dumps(one, ensure_ascii=False) for one in result["answers"])
    head = {name: value for name, value in result.items() if name != "answers"}
    start = json.dumps(head, indent=1, ensure_ascii=False).removesuffix("\n}")
    return f'{start},\n "answers": [\n  {lines}\n ]\n}}\n'


def is_result(path: Path) -> bool:
    """Whether a file says that it is a result of eval, in its beginning; False if it cannot be read."""
    try:
        return _OURS.search(read_beginning(path, _BEGINNING)) is not None
    except (OSError, FileRefusedError):
        return False


def read(path: Path) -> dict[str, Any]:
    """Read a document.

    Raises:
        ResultError: MM894, it is not one, is damaged, or has another version.
    """
    return Kind(FORMAT, VERSION, "mmbuild eval", _DOCUMENT, MEASUREMENTS, _unreadable).read(path)


def _unreadable(problem: str) -> ResultError:
    return ResultError(
        problem,
        code="MM894",
        hint="evaluate again with `mmbuild eval BUILD --data FILE -o FILE`",
    )
