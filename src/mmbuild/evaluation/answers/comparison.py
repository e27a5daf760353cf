"""Compares results of eval with the first of them, question by question."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmbuild.evaluation.answers import document
from mmbuild.evaluation.answers.scores import SCORES
from mmbuild.evaluation.statistics import bootstrap_mean

_SETTINGS = {"max_new_tokens": "limits of tokens"}
"""Key of the settings -> what differs."""


def compare_results(paths: Sequence[Path]) -> dict[str, Any]:
    """Compare result files.

    Returns:
        ``evaluations``, each a document without its answers, with ``path``, a short ``label``, ``answered`` (number
        of answers), ``common`` (number of questions that the first result answered too) and ``differences`` to the
        first: per score ``mean``, ``error`` and the 95 % ``interval`` of the paired bootstrap, None for the first and
        without common questions. Also ``notes``, which say what is not comparable.

    Raises:
        ResultError: MM894, a file is not a result.
    """
    results = [document.read(path) for path in paths]
    names = labels(paths)
    first = results[0]
    compared = [
        {**_summary(result), "path": str(path), "label": label, **_differences(first, result)}
        for path, label, result in zip(paths, names, results, strict=True)
    ]
    compared[0]["differences"] = None
    return {"evaluations": compared, "notes": list(notes(compared))}


def labels(paths: Sequence[Path]) -> list[str]:
    """Names of the files without suffix if these are unique, otherwise whole paths."""
    short = [path.stem for path in paths]
    return short if len(set(short)) == len(short) else [str(path) for path in paths]


def _summary(result: Mapping[str, Any]) -> dict[str, Any]:
    head = {name: value for name, value in result.items() if name != "answers"}
    return {**head, "answered": len(result["answers"])}


def _differences(first: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    ours, theirs = _by_question(first), _by_question(other)
    common = [key for key in ours if key in theirs]
    if not common:
        return {"common": 0, "differences": None}
    differences = {
        name: document.estimate_as_json(
            bootstrap_mean([theirs[key][name] - ours[key][name] for key in common])
        )
        for name in SCORES
    }
    return {"common": len(common), "differences": differences}


def _by_question(result: Mapping[str, Any]) -> dict[tuple[str, int], Mapping[str, float]]:
    """Scores by content of the question, and by how often it occurred before: data sets repeat questions."""
    seen: Counter[str] = Counter()
    found = {}
    for answer in result["answers"]:
        found[answer["digest"], seen[answer["digest"]]] = answer["scores"]
        seen[answer["digest"]] += 1
    return found


def notes(compared: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What is not comparable between the first result and the others, and which results are incomplete."""
    first = compared[0]
    for other in compared[1:]:
        both = f"`{other['label']}` and `{first['label']}`"
        counts = {first["answered"], other["answered"], other["common"]}
        if not other["common"]:
            yield f"{both} have no question in common: their scores are not comparable"
        elif len(counts) > 1:
            yield (
                f"{both} have {other['common']:,} questions in common, of {other['answered']:,} and "
                f"{first['answered']:,}: the difference is that of the common ones"
            )
        differing = [
            what
            for key, what in _SETTINGS.items()
            if other["settings"].get(key) != first["settings"].get(key)
        ]
        if differing:
            yield f"{both} were asked with different {', '.join(differing)}"
    for result in compared:
        if result["missing"]:
            yield f"`{result['label']}` ended early: {result['missing']:,} questions have no answer"
