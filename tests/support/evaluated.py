"""Results of eval, as an engine would leave them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from mmbuild.base.canonical_json import hash_json
from mmbuild.evaluation.answers.document import document


def question(
    number: int, accepted: Sequence[str] = ("two",), prompt: str | None = "how many ?"
) -> dict[str, Any]:
    """The fields of a question; equal ``number``s are equal questions."""
    return {
        "line": number,
        "images": [f"{number}.png"],
        "prompt": prompt,
        "accepted": list(accepted),
        "digest": hash_json([number, list(accepted), prompt]),
    }


def result(answers: Sequence[str], *, first: int = 1, missing: int = 0, **more: Any) -> dict[str, Any]:
    """A result whose questions, numbered from ``first``, were all to be answered with `two`."""
    questions = [question(first + at) for at in range(len(answers) + missing)]
    fields: dict[str, Any] = {
        "engine": {"name": "shapes"},
        "data": "questions.jsonl",
        "settings": {"max_new_tokens": None, "batch": 4, "limit": None},
        "headline": "normalized",
        **more,
    }
    return document(**fields, questions=questions, answers=answers, when=datetime(2026, 1, 2, tzinfo=UTC))
