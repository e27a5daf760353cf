"""Results of eval as text for a terminal; texts of data sets and engines are escaped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmbuild.base.terminal_text import one_line

WRONG_SHOWN = 10
"""Wrong answers that are listed unless all are requested."""
_LONGEST = 300
"""Characters of a text in the list of answers; files have all of it."""

_INTERVAL = "95 % interval"


def score_table(result: Mapping[str, Any]) -> str:
    """The scores with their intervals, and the number of questions; the headline is marked."""
    rows = [["score", "mean", _INTERVAL]]
    for name, score in result["scores"].items():
        mark = " *" if name == result["headline"] else ""
        rows.append([f"{name}{mark}", f"{score['mean']:.3f}", interval_text(score["interval"])])
    count, missing = len(result["answers"]), result["missing"]
    rest = f", {missing:,} not answered" if missing else ""
    return f"{aligned(rows)}\n{count:,} question{'' if count == 1 else 's'} answered{rest}"


def interval_text(interval: Sequence[float] | None, form: str = ".3f") -> str:
    """``0.500 to 0.700``, or ``-``."""
    return "-" if interval is None else f"{interval[0]:{form}} to {interval[1]:{form}}"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Lines of left-aligned columns, two spaces apart."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def answer_lines(result: Mapping[str, Any], which: str | None) -> Iterator[str]:
    """Answers with their questions, the worst first.

    Args:
        result: The document.
        which: ``all``, ``wrong`` (those whose headline score is below 1), ``none``, or None: up to 10 wrong ones.
    """
    headline = result["headline"]
    ranked = sorted(result["answers"], key=lambda one: one["scores"][headline])
    wrong = [one for one in ranked if one["scores"][headline] < 1]
    chosen = {"all": ranked, "wrong": wrong, "none": [], None: wrong[:WRONG_SHOWN]}[which]
    for one in chosen:
        yield ""
        pictures = "".join(f"  {_shown(name)}" for name in one["images"])
        yield f"line {one['line']}: {headline} {one['scores'][headline]:.3f}{pictures}"
        if one["prompt"] is not None:
            yield f"  prompt    {_shown(one['prompt'])}"
        yield f"  expected  {' | '.join(map(_shown, one['accepted']))}"
        yield f"  answer    {_shown(one['answer'])}"
    if which is None and len(wrong) > len(chosen):
        yield ""
        yield f"{len(wrong) - len(chosen):,} other wrong answers; `--questions wrong` lists them"


def _shown(text: str) -> str:
    return one_line(text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ...")


def notes(result: Mapping[str, Any]) -> Iterator[str]:
    """What the numbers do not say."""
    interval = result["scores"][result["headline"]]["interval"]
    if interval is not None and interval[0] == interval[1]:
        yield (
            "all answers have the same score, so its interval has no width and does not say how other questions "
            "would be answered"
        )


def comparison_table(evaluations: Sequence[Mapping[str, Any]]) -> str:
    """Each score of each result, with the difference to the first."""
    first = one_line(evaluations[0]["label"])
    rows = [["score", "result", "mean", _INTERVAL, f"difference to {first}", _INTERVAL]]
    for name in evaluations[0]["scores"]:
        for result in evaluations:
            score, differences = result["scores"][name], result["differences"]
            apart = differences[name] if differences else None
            rows.append(
                [
                    name,
                    one_line(result["label"]),
                    f"{score['mean']:.3f}",
                    interval_text(score["interval"]),
                    f"{apart['mean']:+.3f}" if apart else "-",
                    interval_text(apart and apart["interval"], "+.3f"),
                ]
            )
    return aligned(rows)
