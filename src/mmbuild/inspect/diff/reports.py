"""Reports of `mmbuild why` and `mmbuild diff`, as text and JSON."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from mmbuild.base.formatting import size_text
from mmbuild.core.graph.action import Action
from mmbuild.core.graph.differences import ABSENT, Change, display, flat
from mmbuild.core.graph.plan import Verdict
from mmbuild.core.graph.rebuild_reasons import definition_of
from mmbuild.inspect.diff.blame import Edit, causes
from mmbuild.inspect.diff.build_diff import BuildDiff, StepChange
from mmbuild.inspect.diff.trace import ActionTrace, Trace

TRACE_SCHEMA = 1
_NOTES = {
    "toolchain": "what is installed here is another version",
    "version": "this mmbuild does the step differently",
    "target": "the recipe states none, and this host is another",
}
"""What a change comes from that no line of the recipe says."""


def overview(found: Trace, edits: Sequence[Edit]) -> Iterator[str]:
    """Lines: each action that changed by itself, what changed, by which line, and what it leads to."""
    yield f"{found.recipe}: {_headline(found)}"
    reported: set[str] = set()
    for one in found.causes():
        reported.add(one.label)
        yield ""
        yield from _cause(one, edits, "  ")
        led = [label.rpartition("/")[2] for label in found.led_to(one.label)]
        if led:
            yield f"    leads to {', '.join(led)}"
            reported.update(found.led_to(one.label))
    for one in found.actions:
        if one.label not in reported and not found.past and one.planned.verdict is not Verdict.UP_TO_DATE:
            yield ""
            yield f"  {_head(one)}: {one.planned.reason}"


def chain(found: Trace, label: str, edits: Sequence[Edit]) -> Iterator[str]:
    """Lines: from one action back through its inputs to what changed by itself."""
    actions = {one.label: one for one in found.actions}
    if label not in actions:
        yield f"{label}: {_headline(found)}"
        return
    yield from _back(actions[label], actions, found, edits, "", set())


def key_lines(action: Action, inputs: Mapping[str, str], key: str | None) -> Iterator[str]:
    """Lines: the parts of an action's keys. ``inputs`` are artifact digests, as far as they are known."""
    yield f"definition key  {action.definition_key}"
    yield f"action key      {key or 'not known before its inputs are'}"
    definition = definition_of(action)
    yield f"  step          {action.step}, version {action.version}"
    for part in ("params", "target", "toolchain", "sources"):
        for name, value in sorted(flat(definition[part]).items()):
            yield f"  {part:<12}  {name} = {display(value)}"
    for name, producer in sorted(action.inputs.items()):
        yield f"  inputs        {name} = {inputs.get(name, f'not built yet (definition {producer[:12]})')}"


def why_json(found: Trace, edits: Sequence[Edit]) -> dict[str, Any]:
    """``{"schema", "recipe", "since", "past", "actions": [{"label", "verdict", "reason", "known", "changes",
    "follows"}]}``; of each change ``part``, ``path``, ``old``, ``new`` and ``because``: the recipe's values that it
    comes from, with their places."""
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
        return f"what changed{since}" if found.since else "never laid out here"
    if not found.actions:
        return f"nothing to do; laid out for the first time {_when(found.at)}"
    return f"nothing to do; what the last build ({_when(found.at)}) changed{since}"


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
    """What changed, with the lines that it comes from; neighbours that come from the same are told together."""
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
        return f"{where}`{edit.key}: {display(edit.old)}` is no longer there"
    said = "is new" if edit.old is ABSENT else f"was {display(edit.old)}"
    return f"{where}`{edit.key}: {display(edit.new)}` {said}"


def _without_line(one: ActionTrace, change: Change, edits: Sequence[Edit], indent: str) -> Iterator[str]:
    locator = one.planned.action.locators.get(change.path) if change.part == "sources" else None
    if locator:
        yield f"{indent}the file is {locator}"
    elif change.part in _NOTES:
        yield f"{indent}{_NOTES[change.part]}"
    unclear = [edit.key for edit in edits if edit.reaches is None]
    if unclear and change.part == "params":
        yield f"{indent}perhaps by {', '.join(unclear)}, whose old values are no recipe with the others as they are"


def _back(
    one: ActionTrace,
    actions: Mapping[str, ActionTrace],
    found: Trace,
    edits: Sequence[Edit],
    indent: str,
    reported: set[str],
) -> Iterator[str]:
    quiet = not one.changed
    yield f"{indent}{_head(one)}{f': {one.planned.reason}' if quiet else ''}"
    if one.label in reported:
        yield f"{indent}  as above"
        return
    reported.add(one.label)
    if not one.known:
        yield f"{indent}  never built before, or its definition is no longer in the store"
    yield from _changes(one, edits, f"{indent}  ")
    for name, producer in one.follows.items():
        yield f"{indent}  input `{name}` changed, which is made by"
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
    """For a person; only what differs."""
    for sign, build in zip("-+", found.builds, strict=True):
        yield f"{sign} {build['path']}  {build['recipe']}{_built_at(build)}"
    if found.same:
        yield "the same engine: every file and every step's result"
    yield from _pairs("recipe", found.recipe)
    if not found.known:
        yield "recipe: at least one of the builds does not say what its recipe's files said"
    yield from _pairs("versions", found.versions)
    yield from _pairs("target", found.target)
    yield from _steps(found)
    yield from _files(found)


def diff_json(found: BuildDiff) -> dict[str, Any]:
    """``{"schema", "same", "builds", "recipe", "versions", "target", "steps", "only", "files"}``; a pair of values is
    ``{"old", "new"}`` and lacks the side that has none."""
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
    made = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(build["built_at"]))
    return f"  built {made}" + (f" on {build['host']}" if build["host"] else "")


def _pairs(title: str, pairs: Mapping[str, tuple[Any, Any]]) -> Iterator[str]:
    if not pairs:
        return
    yield ""
    yield f"{title}:"
    width = max(map(len, pairs))
    for name, (old, new) in pairs.items():
        yield f"  {name:<{width}}  {_value(old)} -> {_value(new)}"


def _value(value: Any) -> str:
    return "(not there)" if value is ABSENT else display(value)


def _steps(found: BuildDiff) -> Iterator[str]:
    if found.steps or found.only:
        yield ""
        yield "steps:"
    for step in found.steps:
        text = "came out differently" if step.result else "came out the same"
        yield f"  {step.step}: {text}"
        for change in step.own:
            if change.part not in ("toolchain", "target", "version"):  # told above, once for all steps
                yield f"    {change.text}"
        for name, maker in step.follows.items():
            yield f"    input `{name}` is of {maker}"
        if step.unexplained:
            yield "    from the very same inputs: this step does not make the same thing twice"
    for name, side in found.only.items():
        yield f"  {name}: only in {found.builds[side]['path']}"


def _files(found: BuildDiff) -> Iterator[str]:
    if found.files:
        yield ""
        yield "files:"
    width = max((len(item.path) for item in found.files), default=0)
    for item in found.files:
        sizes = [("(not there)" if size is None else size_text(size)) for size in (item.old, item.new)]
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
