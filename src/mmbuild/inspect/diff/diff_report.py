"""The difference of two builds in words and as data."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from mmbuild.base.formatting import size_text
from mmbuild.core.graph.differences import ABSENT, display
from mmbuild.inspect.diff.build_diff import BuildDiff, StepChange

DIFF_SCHEMA = 1


def lines(found: BuildDiff) -> Iterator[str]:
    """For a person; only what differs."""
    for sign, build in zip("-+", found.builds, strict=True):
        yield f"{sign} {build['path']}  {build['recipe']}{_when(build)}"
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


def _when(build: Mapping[str, Any]) -> str:
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
        told = "came out differently" if step.result else "came out the same"
        yield f"  {step.step}: {told}"
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
