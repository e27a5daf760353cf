"""Jobs as rows of plain data: what every service's form is made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmbuild._version import __version__
from mmbuild.base.formatting import estimate_text
from mmbuild.team.ci.jobs import CiJob
from mmbuild.team.ci.runners import labels, machine_for

VERSION = 1


def rows(
    jobs: Sequence[CiJob], seconds: Mapping[str, float], runners: Mapping[str, Sequence[str]]
) -> list[dict[str, Any]]:
    """One for each job.

    Returns:
        ``name``, ``kind`` (``source``, ``shared`` or ``engine``), ``recipes`` (files), ``variants``, ``needs``
        (names of jobs), ``runner`` (labels), ``gpus``, ``sm`` (or None), ``memory_gib``, ``seconds`` (one action
        after the other, estimated), ``actions`` (labels).
    """
    return [_row(job, seconds, runners) for job in jobs]


def _row(job: CiJob, seconds: Mapping[str, float], runners: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    machine = machine_for(job.actions)
    return {
        "name": job.name,
        "kind": job.kind,
        "recipes": list(job.files),
        "variants": list(job.variants),
        "needs": list(job.needs),
        "runner": labels(machine, runners),
        "gpus": machine.gpus,
        "sm": machine.sm,
        "memory_gib": machine.memory_gib,
        "seconds": round(sum(seconds[action.definition_key] for action in job.actions), 1),
        "actions": [action.label for action in job.actions],
    }


def document(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The versioned JSON form: ``{"version", "mmbuild", "jobs"}``."""
    return {"version": VERSION, "mmbuild": __version__, "jobs": [dict(row) for row in found]}


def text(found: Sequence[Mapping[str, Any]]) -> str:
    """A table for people."""
    if not found:
        return "no jobs\n"
    cells = [("job", "runner", "time", "actions", "needs")]
    cells += [
        (
            row["name"],
            ",".join(row["runner"]),
            estimate_text(row["seconds"]),
            str(len(row["actions"])),
            " ".join(row["needs"]),
        )
        for row in found
    ]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]
    return "\n".join(line.rstrip() for line in lines) + "\n"
