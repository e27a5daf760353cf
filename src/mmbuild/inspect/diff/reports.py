"""Reports of `mmbuild why` and `mmbuild diff`, as text and JSON."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from mmbuild.base.formatting import size_text
from mmbuild.core.graph.action import Action
from mmbuild.core.graph.definition_diff import ABSENT, Change, display, flat
from mmbuild.core.graph.plan import Verdict
from mmbuild.core.graph.rebuild_reasons import definition_of
from mmbuild.inspect.diff.blame import Edit, causes
from mmbuild.inspect.diff.build_diff import BuildDiff, StepChange
from mmbuild.inspect.diff.trace import ActionTrace, Trace

TRACE_SCHEMA = 1
_NOTES = {
    "toolchain": "another version is installed here",
    "version": "this mmbuild implements the step differently",
    "target": "the recipe sets no target, and this host differs",
}
"""Part of the definition -> the cause of a change that no line of the recipe explains."""


def overview(found: Trace, edits: Sequence[Edit]) -> Iterator[str]:
    """Lines for each action that changed by itself: what changed, because of which line, and what follows."""
    yield f"{found.recipe}: {_headline(found)}"
    reported: set[str] = set()
    for one in found.causes():
        reported.add(one.label)
        yield ""
        yield from _cause(one, edits, "  ")
        consumers = [label.rpartition("/")[2] for label in found.led_to(one.label)]
        if consumers:
            yield f"    leads to {', '.join(consumers)}"
            reported.update(found.led_to(one.label))
    for one in found.actions:
        if one.label not in reported and not found.past and one.planned.verdict is not Verdict.UP_TO_DATE:
            yield ""
            yield f"  {_head(one)}: {one.planned.reason}"


def chain(found: Trace, label: str, edits: Sequence[Edit]) -> Iterator[str]:
    """Lines that lead from one action through its inputs back to what changed by itself."""
    actions = {one.label: one for one in found.actions}
    if label not in actions:
        yield f"{label}: {_headline(found)}"
        return
    yield from _back(actions[label], actions, found, edits, "", set())


def key_lines(action: Action, inputs: Mapping[str, str], key: str | None) -> Iterator[str]:
    """Lines with the parts of an action's keys. ``inputs`` are the known artifact digests."""
    yield f"definition key  {action.definition_key}"
    yield f"action key      {key or 'unknown until its inputs are built'}"
    definition = definition_of(action)
    yield f"  step          {action.step}, version {action.version}"
    for part in ("params", "target", "toolchain", "sources"):
        for name, value in sorted(flat(definition[part]).items()):
            yield f"  {part:<12}  {name} = {display(value)}"
    for name, producer in sorted(action.inputs.items()):
        yield f"  inputs        {name} = {inputs.get(name, f'not built yet (definition {producer[:12]})')}"


def why_json(found: Trace, edits: Sequence[Edit]) -> dict[str, Any]:
    """``{"schema", "recipe", "since", "past", "actions": [{"label", "verdict", "reason", "known", "changes",
    "follows"}]}``; each change has ``part``, ``path``, ``old``, ``new`` and ``because``: the values of the recipe
    that cause it, with their locations."""
    return {
        "schema": TRACE_SCHEMA,
        "recipe": found.recipe,
        "since": found.since or None,
        "past": found.past,
        "actions": [_action(one, edits) for one in found.actions],
    }


def _headline(found: Trace) -> str:
    since = f" since {_when(found.since)}" if found.since else ""
    if not found.past:
        return f"what changed{since}" if found.since else "never built here"
    if not found.actions:
        return f"nothing to do; built for the first time {_when(found.at)}"
    return f"nothing to do; changes of the last build ({_when(found.at)}){since}"


def _when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def _head(one: ActionTrace) -> str:
    return f"{one.label} ({one.planned.verdict})"


def _cause(one: ActionTrace, edits: Sequence[Edit], indent: str) -> Iterator[str]:
    yield f"{indent}{_head(one)}"
    if not one.known:
        yield f"{indent}  never built before, or its definition is no longer in the store"
    yield from _changes(one, edits, f"{indent}  ")


def _changes(one: ActionTrace, edits: Sequence[Edit], indent: str) -> Iterator[str]:
    """The changes with the lines that cause them; adjacent changes with the same cause share its lines."""
    blamed = [(change, causes(one, change, edits)) for change in one.own]
    for position, (change, lines) in enumerate(blamed):
        yield f"{indent}{change.text}"
        if not lines:
            yield from _without_line(one, change, edits, f"{indent}  ")
        elif position + 1 == len(blamed) or blamed[position + 1][1] != lines:
            yield from (f"{indent}  {_edit(edit)}" for edit in lines)


def _edit(edit: Edit) -> str:
    span = edit.span
    where = "" if span is None else f"{span.source.label}:{span.line}:{span.column}: "
    if edit.new is ABSENT:
        return f"{where}`{edit.key}: {display(edit.old)}` was removed"
    change = "is new" if edit.old is ABSENT else f"was {display(edit.old)}"
    return f"{where}`{edit.key}: {display(edit.new)}` {change}"


def _without_line(one: ActionTrace, change: Change, edits: Sequence[Edit], indent: str) -> Iterator[str]:
    locator = one.planned.action.locators.get(change.path) if change.part == "sources" else None
    if locator:
        yield f"{indent}the file is {locator}"
    elif change.part in _NOTES:
        yield f"{indent}{_NOTES[change.part]}"
    unclear = [edit.key for edit in edits if edit.reaches is None]
    if unclear and change.part == "params":
        yield f"{indent}possibly {', '.join(unclear)}: reverting only this value gives an invalid recipe"


def _back(
    one: ActionTrace,
    actions: Mapping[str, ActionTrace],
    found: Trace,
    edits: Sequence[Edit],
    indent: str,
    reported: set[str],
) -> Iterator[str]:
    reason = "" if one.changed else f": {one.planned.reason}"
    yield f"{indent}{_head(one)}{reason}"
    if one.label in reported:
        yield f"{indent}  as above"
        return
    reported.add(one.label)
    if not one.known:
        yield f"{indent}  never built before, or its definition is no longer in the store"
    yield from _changes(one, edits, f"{indent}  ")
    for name, producer in one.follows.items():
        yield f"{indent}  input `{name}` changed, which is produced by"
        yield from _back(actions[producer], actions, found, edits, f"{indent}    ", reported)


def _action(one: ActionTrace, edits: Sequence[Edit]) -> dict[str, Any]:
    return {
        "label": one.label,
        "verdict": str(one.planned.verdict),
        "reason": one.planned.reason,
        "known": one.known,
        "changes": [
            {
                "part": change.part,
                "path": change.path,
                "old": None if change.old is ABSENT else change.old,
                "new": None if change.new is ABSENT else change.new,
                "because": [_cause_json(edit) for edit in causes(one, change, edits)],
            }
            for change in one.own
        ],
        "follows": dict(one.follows),
    }


def _cause_json(edit: Edit) -> dict[str, Any]:
    span = edit.span
    return {
        "key": edit.key,
        "old": None if edit.old is ABSENT else edit.old,
        "new": None if edit.new is ABSENT else edit.new,
        "file": span.source.label if span else None,
        "line": span.line if span else None,
        "column": span.column if span else None,
    }


DIFF_SCHEMA = 1


def lines(found: BuildDiff) -> Iterator[str]:
    """The differences as lines of text."""
    for sign, build in zip("-+", found.builds, strict=True):
        yield f"{sign} {build['path']}  {build['recipe']}{_built_at(build)}"
    if found.same:
        yield "the engines are identical: every file, and the result of every step"
    yield from _pairs("recipe", found.recipe)
    if not found.known:
        yield "recipe: at least one of the builds does not record the values of its recipe files"
    yield from _pairs("versions", found.versions)
    yield from _pairs("target", found.target)
    yield from _steps(found)
    yield from _files(found)


def diff_json(found: BuildDiff) -> dict[str, Any]:
    """``{"schema", "same", "builds", "recipe", "versions", "target", "steps", "only", "files"}``; a pair of values is
    ``{"old", "new"}`` without the side that has no value."""
    return {
        "schema": DIFF_SCHEMA,
        "same": found.same,
        "builds": [dict(build) for build in found.builds],
        "recipe": _as_pairs(found.recipe) if found.known else None,
        "versions": _as_pairs(found.versions),
        "target": _as_pairs(found.target),
        "steps": [_step_json(step) for step in found.steps],
        "only": {name: found.builds[side]["path"] for name, side in found.only.items()},
        "files": [asdict(item) for item in found.files],
    }


def _built_at(build: Mapping[str, Any]) -> str:
    if not build["built_at"]:
        return ""
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(build["built_at"]))
    return f"  built {when}" + (f" on {build['host']}" if build["host"] else "")


def _pairs(title: str, pairs: Mapping[str, tuple[Any, Any]]) -> Iterator[str]:
    if not pairs:
        return
    yield ""
    yield f"{title}:"
    width = max(map(len, pairs))
    for name, (old, new) in pairs.items():
        yield f"  {name:<{width}}  {_value(old)} -> {_value(new)}"


def _value(value: Any) -> str:
    return "(missing)" if value is ABSENT else display(value)


def _steps(found: BuildDiff) -> Iterator[str]:
    if found.steps or found.only:
        yield ""
        yield "steps:"
    for step in found.steps:
        text = "different result" if step.result else "same result"
        yield f"  {step.step}: {text}"
        for change in step.own:
            if change.part not in ("toolchain", "target", "version"):  # reported above for all steps
                yield f"    {change.text}"
        for name, producer in step.follows.items():
            yield f"    input `{name}` comes from {producer}"
        if step.unexplained:
            yield "    from identical inputs: this step is not reproducible"
    for name, side in found.only.items():
        yield f"  {name}: only in {found.builds[side]['path']}"


def _files(found: BuildDiff) -> Iterator[str]:
    if found.files:
        yield ""
        yield "files:"
    width = max((len(item.path) for item in found.files), default=0)
    for item in found.files:
        sizes = [("(missing)" if size is None else size_text(size)) for size in (item.old, item.new)]
        both = sizes[0] if sizes[0] == sizes[1] else " -> ".join(sizes)
        yield f"  {item.path:<{width}}  {both}"


def _as_pairs(pairs: Mapping[str, tuple[Any, Any]]) -> dict[str, dict[str, Any]]:
    return {
        name: {side: value for side, value in zip(("old", "new"), pair, strict=True) if value is not ABSENT}
        for name, pair in pairs.items()
    }


def _step_json(step: StepChange) -> dict[str, Any]:
    return {
        "step": step.step,
        "result_differs": step.result,
        "unexplained": step.unexplained,
        "changes": [
            {"part": change.part, "path": change.path, **_as_pairs({"": (change.old, change.new)})[""]}
            for change in step.own
        ],
        "follows": dict(step.follows),
    }
