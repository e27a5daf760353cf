"""Writes the result of an apply as Markdown, for the summary page of a GitHub job.

Source: "Workflow commands for GitHub Actions", adding a job summary: the file named by ``$GITHUB_STEP_SUMMARY``, at
most 1 MiB per step.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmbuild.base.errors import MmbuildError
from mmbuild.base.formatting import estimate_text, size_text
from mmbuild.base.templates import render
from mmbuild.core.execution.events import Event, EventKind, Result, Sink
from mmbuild.core.graph.plan import Build, Plan
from mmbuild.core.store.disk_errors import output_errors


@dataclass(slots=True)
class EventStats:
    """Aggregates the events of an apply per action.

    Attributes:
        built: Seconds by label of actions that ran.
        pulled: Labels of results whose files came from the shared store.
        warnings: Data of warning events.
    """

    built: dict[str, float] = field(default_factory=dict)
    pulled: set[str] = field(default_factory=set)
    warnings: list[Mapping[str, Any]] = field(default_factory=list)

    def watching(self, sink: Sink) -> Sink:
        """Wrap ``sink`` to count events."""

        def watch(event: Event) -> None:
            if event.kind is EventKind.FINISHED:
                self.built[event.label] = event.data["seconds"]
            elif event.kind is EventKind.PULLED and not event.data["why"]:
                self.pulled.add(event.label)
            elif event.kind is EventKind.WARNING:
                self.warnings.append(event.data)
            sink(event)

        return watch


VARIABLE = "GITHUB_STEP_SUMMARY"
_MOST_BYTES = 1_000_000


def summary(plan: Plan, tally: EventStats, result: Result) -> str:
    """Return a table of the engines and the failures."""
    labels = {planned.action.definition_key: planned.action.label for planned in plan.actions}
    broken = {item.label for item in result.failed}
    values = {
        "built": len(result.ran),
        "pulled": len(tally.pulled),
        "rows": [
            _row(build, {labels[key] for key in build.actions.values()}, tally, broken)
            for build in plan.builds
        ],
        "failed": result.failed,
    }
    return render("mmbuild.team.ci", "summary.md.j2", values)


def append_summary(text: str) -> bool:
    """Append to the job's summary page; return False outside GitHub, where there is none.

    Raises:
        MmbuildError: MM301 or MM302, the file cannot be written.
    """
    path = os.environ.get(VARIABLE)
    if not path:
        return False
    with output_errors(Path(path)), open(path, "a", encoding="utf-8") as stream:
        stream.write(text if len(text.encode()) <= _MOST_BYTES else text.partition("\n")[0] + "\n")
    return True


def _row(build: Build, own: set[str], tally: EventStats, broken: set[str]) -> tuple[str, ...]:
    built, pulled = own & tally.built.keys(), own & tally.pulled
    reported = _engine_facts(build) if not own & broken else {}
    failed = ", ".join(sorted(label.rpartition("/")[2] for label in own & broken))
    return (
        build.recipe,
        reported.get("precision", ""),
        reported.get("size", ""),
        str(len(built)),
        str(len(pulled)),
        str(len(own - built - pulled)) if not failed else "",
        estimate_text(sum(tally.built[label] for label in built)) if built else "",
        f"failed: {failed}" if failed else reported.get("gates", ""),
    )


def _engine_facts(build: Build) -> dict[str, str]:
    """Return facts about the engine in its directory; empty if there is none yet."""
    from mmbuild.inspect.compare_builds import inspect_builds

    try:
        info = inspect_builds(build.directory)
    except (MmbuildError, OSError, KeyError, TypeError, ValueError):
        return {}
    gates = info["gates"]
    return {
        "precision": " ".join(str(info[key]) for key in ("dtype", "quant_algo") if info[key]),
        "size": size_text(sum(info["bytes"].values())),
        "gates": f"{gates[0]} of {gates[1]}" if gates else "",
    }
