"""Differences as Markdown for a pull request, and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mmbuild._version import __version__
from mmbuild.changes.blame import step_of
from mmbuild.ci.differences import Difference, Differences
from mmbuild.ci.lines import Line
from mmbuild.graph.action import Action
from mmbuild.graph.differences import ABSENT, shown
from mmbuild.units import estimate_text

VERSION = 1
_CAUSES = 4
"""Lines and reasons told of one variant; a table of a pull request is read, not searched."""

_NAMES = 12
"""Variants named in one row; JSON has all."""


def document(found: Differences, seconds: Mapping[str, float]) -> dict[str, Any]:
    """The versioned JSON form.

    Args:
        found: What differs.
        seconds: By definition key.

    Returns:
        ``{"version", "mmbuild", "before", "after", "variants", "unchanged", "build", "keep", "seconds", "only_text",
        "faults"}``. ``build`` and ``keep`` are actions (``label``, ``step``, ``seconds``) of all variants together,
        each once; of a variant ``build`` and ``keep`` are labels.
    """
    return {
        "version": VERSION,
        "mmbuild": __version__,
        "before": found.before,
        "after": found.after,
        "variants": [_variant(one, seconds) for one in found.variants],
        "unchanged": found.unchanged,
        "build": [_action(action, seconds) for action in found.build],
        "keep": [_action(action, seconds) for action in found.keep],
        "seconds": _sum(found.build, seconds),
        "only_text": list(found.only_text),
        "faults": dict(found.faults),
    }


def markdown(found: Differences, seconds: Mapping[str, float]) -> str:
    """A comment for a pull request: what is built, for which variants, why, and what is free."""
    lines = [f"### {_headline(found)}", ""]
    differing = [one for one in found.variants if one.state != "same"]
    if differing:
        lines += ["| variant | | why | builds | keeps | time |", "|---|---|---|---|---|---|"]
        lines += _rows(differing, seconds)
        lines += ["", _cost(found, seconds)]
    lines += _free(found)
    if found.faults:
        lines += ["", f"Not planned at `{found.before}`, so that their variants count as new:", ""]
        lines += [f"- `{file}`: {_cell(why)}" for file, why in found.faults.items()]
    return "\n".join(lines) + "\n"


def _headline(found: Differences) -> str:
    differing = [one for one in found.variants if one.state != "same"]
    total = len(found.variants) + found.unchanged
    states = {state: sum(one.state == state for one in differing) for state in ("new", "changed", "gone")}
    counts = ", ".join(f"{count} {state}" for state, count in states.items() if count)
    if not differing:
        return f"mmbuild: nothing to build, {total} variants as before"
    return f"mmbuild: {counts} of {total} variants"


def _rows(differing: Iterable[Difference], seconds: Mapping[str, float]) -> list[str]:
    """A row for variants of which the same is told: a line of a base recipe changes many alike."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for one in differing:
        alike.setdefault(_cells(one, seconds), []).append(f"`{one.name}`")
    rows = []
    for cells, names in alike.items():
        more = [f"and {len(names) - _NAMES} more"] if len(names) > _NAMES else []
        time = f"{cells[-1]} each" if cells[-1] and len(names) > 1 else cells[-1]
        rows.append(f"| {' | '.join(['<br>'.join([*names[:_NAMES], *more]), *cells[:-1], time])} |")
    return rows


def _cells(one: Difference, seconds: Mapping[str, float]) -> tuple[str, ...]:
    builds = ", ".join(dict.fromkeys(step_of(action.label) for action in one.build)) or "nothing"
    return (
        one.state,
        _why(one),
        builds if one.state != "gone" else "",
        str(len(one.keep)) if one.state != "gone" else "",
        estimate_text(_sum(one.build, seconds)) if one.build else "",
    )


def _why(one: Difference) -> str:
    causes = [_line(line) for line in one.lines if not line.free] + [_cell(reason) for reason in one.reasons]
    more = [f"and {len(causes) - _CAUSES} more"] if len(causes) > _CAUSES else []
    return "<br>".join([*causes[:_CAUSES], *more]) or f"`{one.file}`"


def _line(line: Line) -> str:
    place = f"`{line.file}:{line.line}`"
    if line.old is ABSENT:
        return f"{place} {_code(line.key)} was added: {_code(line.new)}"
    if line.new is ABSENT:
        return f"{place} {_code(line.key)} is gone, it was {_code(line.old)}"
    return f"{place} {_code(line.key)} from {_code(line.old)} to {_code(line.new)}"


def _cost(found: Differences, seconds: Mapping[str, float]) -> str:
    built, kept = len(found.build), len(found.keep)
    time = (
        f", about {estimate_text(_sum(found.build, seconds))} one after the other (estimated)"
        if built
        else ""
    )
    return f"{_counted(built, 'action')} to build{time}; {_counted(kept, 'action')} as before."


def _free(found: Differences) -> list[str]:
    told = dict.fromkeys(
        f"- {_line(line)}: no action depends on it"
        for one in found.variants
        for line in one.lines
        if line.free or one.state == "same"
    )
    told |= dict.fromkeys(f"- `{file}`: nothing but comments or layout" for file in found.only_text)
    return ["", "Free:", "", *told] if told else []


def _variant(one: Difference, seconds: Mapping[str, float]) -> dict[str, Any]:
    return {
        "name": one.name,
        "state": one.state,
        "file": one.file,
        "lines": [
            {
                "file": line.file,
                "line": line.line,
                "key": line.key,
                "before": None if line.old is ABSENT else line.old,
                "after": None if line.new is ABSENT else line.new,
                "free": line.free or one.state == "same",
            }
            for line in one.lines
        ],
        "reasons": list(one.reasons),
        "build": [action.label for action in one.build],
        "keep": [action.label for action in one.keep],
        "seconds": _sum(one.build, seconds),
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


def _code(value: Any) -> str:
    return f"`{_cell(shown(value)).replace('`', chr(39))}`"


def _cell(text: str) -> str:
    """Text that stays in its cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")
