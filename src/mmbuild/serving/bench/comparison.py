"""Compares results of bench: runs of equal loads next to each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmbuild.serving.bench import document
from mmbuild.serving.bench.rows import Row, row_of
from mmbuild.serving.bench.rows import notes as notes_of

_DIFFERENCES = {
    "images": "pictures",
    "image_size": "sizes of pictures",
    "prompts": "prompts",
    "max_tokens": "limits of tokens",
    "ignore_eos": "treatment of end tokens",
}
"""Key of a workload -> what differs."""

_SIMILAR = 0.9
"""Ratio of the average lengths of answers from which they count as equal."""


def compare_results(paths: Sequence[Path]) -> dict[str, Any]:
    """Compare result files.

    Returns:
        ``results``, each a document without its single requests, with its ``path`` and a short ``label``; and
        ``notes``, which say what is not comparable.

    Raises:
        ResultError: MM865, a file is not a result.
    """
    results = [
        {**document.read(path), "path": str(path), "label": label}
        for path, label in zip(paths, labels(paths), strict=True)
    ]
    found = list(notes(results))
    for result in results:
        result["runs"] = [
            {name: value for name, value in run.items() if name != "requests"} for run in result["runs"]
        ]
    return {"results": results, "notes": found}


def labels(paths: Sequence[Path]) -> list[str]:
    """Names of the files without suffix if these are unique, otherwise whole paths."""
    short = [path.stem for path in paths]
    return short if len(set(short)) == len(short) else [str(path) for path in paths]


def rows(results: Sequence[Mapping[str, Any]]) -> list[Row]:
    """A row per run, ordered by load: closed loops by requests at once, then open loops by rate."""
    found = [
        (run["load"]["kind"] == "rate", run["load"]["value"], number, row_of(result["label"], run))
        for number, result in enumerate(results)
        for run in result["runs"]
    ]
    return [row for *_, row in sorted(found, key=lambda entry: entry[:3])]


def notes(results: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What is not comparable between the first result and the others, and the notes of each."""
    first = results[0]
    for other in results[1:]:
        both = f"`{other['label']}` and `{first['label']}`"
        differing = [
            what for key, what in _DIFFERENCES.items() if other["workload"][key] != first["workload"][key]
        ]
        if differing:
            yield f"{both} differ in their {', '.join(differing)}: their times are not comparable"
        lengths = [_tokens_per_answer(result) for result in (other, first)]
        if min(lengths) < _SIMILAR * max(lengths):
            shown = " and ".join(f"{length:.1f}" for length in lengths)
            yield f"{both} have answers of {shown} tokens on average: their times are not comparable"
        if other["host"].get("name") != first["host"].get("name"):
            yield f"{both} were measured on different hosts"
    for result in results:
        for note in notes_of(result):
            yield f"`{result['label']}`, {note}"


def _tokens_per_answer(result: Mapping[str, Any]) -> float:
    summaries = [run["summary"] for run in result["runs"]]
    answers = sum(summary["completed"] for summary in summaries)
    return float(sum(summary["tokens"] for summary in summaries) / answers) if answers else 0.0
