"""Formats differences as Markdown for a pull request, and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mmbuild._version import __version__
from mmbuild.base.formatting import estimate_text
from mmbuild.base.templates import code, render
from mmbuild.core.graph.action import Action
from mmbuild.core.graph.definition_diff import ABSENT, display
from mmbuild.inspect.diff.blame import step_of
from mmbuild.team.ci.change_cost import ChangedValue, Differences, VariantDifference

VERSION = 1
_CAUSES = 4
"""Maximum number of lines and reasons per variant, to keep the table readable."""

_NAMES = 12
"""Maximum number of variants named in a row; the JSON has all."""


def document(found: Differences, seconds: Mapping[str, float]) -> dict[str, Any]:
    """Return the versioned JSON form.

    Args:
        found: The differences.
        seconds: Durations by definition key.

    Returns:
        ``{"version", "mmbuild", "before", "after", "variants", "unchanged", "build", "keep", "seconds", "only_text",
        "faults"}``. ``build`` and ``keep`` are the distinct actions (``label``, ``step``, ``seconds``) of all
        variants; in a variant, ``build`` and ``keep`` are labels.
    """
    return {
        "version": VERSION,
        "mmbuild": __version__,
        "before": found.before,
        "after": found.after,
        "variants": [_variant(variant, seconds) for variant in found.variants],
        "unchanged": found.unchanged,
        "build": [_action(action, seconds) for action in found.build],
        "keep": [_action(action, seconds) for action in found.keep],
        "seconds": _sum(found.build, seconds),
        "only_text": list(found.only_text),
        "faults": dict(found.faults),
    }


def markdown(found: Differences, seconds: Mapping[str, float]) -> str:
    """Return a pull request comment: what is built, for which variants, why, and which changes cost nothing."""
    values = {
        "found": found,
        "headline": _headline(found),
        "rows": _rows([variant for variant in found.variants if variant.state != "same"], seconds),
        "cost": _cost(found, seconds),
        "free": _free(found),
    }
    return render("mmbuild.team.ci", "pr_comment.md.j2", values)


def _headline(found: Differences) -> str:
    differing = [variant for variant in found.variants if variant.state != "same"]
    total = len(found.variants) + found.unchanged
    states = {state: sum(item.state == state for item in differing) for state in ("new", "changed", "gone")}
    counts = ", ".join(f"{count} {state}" for state, count in states.items() if count)
    if not differing:
        return f"mmbuild: nothing to build, {total} variants unchanged"
    return f"mmbuild: {counts} of {total} variants"


_Cell = tuple[str, ...]
"""Lines of a table cell."""


def _rows(differing: Iterable[VariantDifference], seconds: Mapping[str, float]) -> list[list[_Cell]]:
    """Return a row for each group of variants that differ in the same way, as after a change in a base recipe."""
    alike: dict[tuple[_Cell, ...], list[str]] = {}
    for variant in differing:
        alike.setdefault(_cells(variant, seconds), []).append(code(variant.name))
    return [
        [_at_most(_NAMES, names), *cells, (f"{time} each" if time and len(names) > 1 else time,)]
        for (*cells, (time,)), names in alike.items()
    ]


def _cells(variant: VariantDifference, seconds: Mapping[str, float]) -> tuple[_Cell, ...]:
    builds = ", ".join(dict.fromkeys(step_of(action.label) for action in variant.build)) or "nothing"
    causes = [*(_line(line) for line in variant.lines if not line.free), *variant.reasons]
    return (
        (variant.state,),
        _at_most(_CAUSES, causes) or (code(variant.file),),
        (builds if variant.state != "gone" else "",),
        (str(len(variant.keep)) if variant.state != "gone" else "",),
        (estimate_text(_sum(variant.build, seconds)) if variant.build else "",),
    )


def _at_most(most: int, texts: Sequence[str]) -> _Cell:
    return (*texts[:most], *([f"and {len(texts) - most} more"] if len(texts) > most else []))


def _line(line: ChangedValue) -> str:
    place = f"{code(f'{line.file}:{line.line}')} {code(line.key)}"
    if line.old is ABSENT:
        return f"{place} was added: {code(display(line.new))}"
    if line.new is ABSENT:
        return f"{place} was removed, was {code(display(line.old))}"
    return f"{place} from {code(display(line.old))} to {code(display(line.new))}"


def _cost(found: Differences, seconds: Mapping[str, float]) -> str:
    built, kept = len(found.build), len(found.keep)
    time = f", about {estimate_text(_sum(found.build, seconds))} in sequence (estimated)" if built else ""
    return f"{_counted(built, 'action')} to build{time}; {_counted(kept, 'action')} unchanged."


def _free(found: Differences) -> list[str]:
    lines = [
        f"{_line(line)}: no action depends on it"
        for variant in found.variants
        for line in variant.lines
        if line.free or variant.state == "same"
    ]
    lines += [f"{code(file)}: no action depends on its changes" for file in found.only_text]
    return list(dict.fromkeys(lines))


def _variant(variant: VariantDifference, seconds: Mapping[str, float]) -> dict[str, Any]:
    return {
        "name": variant.name,
        "state": variant.state,
        "file": variant.file,
        "lines": [
            {
                "file": line.file,
                "line": line.line,
                "key": line.key,
                "before": None if line.old is ABSENT else line.old,
                "after": None if line.new is ABSENT else line.new,
                "free": line.free or variant.state == "same",
            }
            for line in variant.lines
        ],
        "reasons": list(variant.reasons),
        "build": [action.label for action in variant.build],
        "keep": [action.label for action in variant.keep],
        "seconds": _sum(variant.build, seconds),
    }


def _action(action: Action, seconds: Mapping[str, float]) -> dict[str, Any]:
    return {
        "label": action.label,
        "step": action.step,
        "seconds": round(seconds[action.definition_key], 1),
    }


def _sum(actions: Iterable[Action], seconds: Mapping[str, float]) -> float:
    return round(sum(seconds[action.definition_key] for action in actions), 1)


def _counted(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"
