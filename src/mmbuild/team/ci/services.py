"""Formats jobs for GitHub and GitLab."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from mmbuild._version import __version__
from mmbuild.base.formatting import estimate_text
from mmbuild.team.ci.jobs import CiJob
from mmbuild.team.ci.runners import labels, machine_for
from mmbuild.team.ci.variants import CiError

VERSION = 1


def rows(
    jobs: Sequence[CiJob], seconds: Mapping[str, float], runners: Mapping[str, Sequence[str]]
) -> list[dict[str, Any]]:
    """Return a row for each job.

    Returns:
        ``name``, ``kind`` (``source``, ``shared`` or ``engine``), ``recipes`` (files), ``variants``, ``needs``
        (names of jobs), ``runner`` (labels), ``gpus``, ``sm`` (or None), ``memory_gib``, ``seconds`` (estimated, all
        actions in sequence), ``actions`` (labels).
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
    """Return the versioned JSON form: ``{"version", "mmbuild", "jobs"}``."""
    return {"version": VERSION, "mmbuild": __version__, "jobs": [dict(row) for row in found]}


def cells(found: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Return the cells of a table; the first row holds its titles."""
    lines: list[tuple[str, ...]] = [("job", "runner", "time", "actions", "needs")]
    lines += [
        (
            row["name"],
            ",".join(row["runner"]),
            estimate_text(row["seconds"]),
            str(len(row["actions"])),
            " ".join(row["needs"]),
        )
        for row in found
    ]
    return lines


MAX_JOBS = 256
STAGES: Mapping[str, str] = {"sources": "source", "shared": "shared", "engines": "engine"}
"""Name of the output -> kind of its jobs, in the order in which they run."""


def outputs(found: Sequence[Mapping[str, Any]]) -> str:
    """Return lines for ``$GITHUB_OUTPUT``: for each stage ``NAME={"include": [...]}`` and ``has_NAME=true|false``.

    Recipes are joined by spaces, for use in a shell; ``runner`` stays a list, for ``runs-on``.

    Raises:
        CiError: MM814, a matrix has more jobs than GitHub allows.
    """
    lines: list[str] = []
    for name, kind in STAGES.items():
        stage = [row for row in found if row["kind"] == kind]
        if len(stage) > MAX_JOBS:
            raise CiError(
                f"the matrix `{name}` has {len(stage)} jobs, but GitHub allows at most {MAX_JOBS}",
                code="MM814",
                hint="name fewer recipes per workflow, or use `--changed-since`",
            )
        include = [_entry(row) for row in stage]
        lines.append(f"{name}={json.dumps({'include': include}, separators=(',', ':'))}")
        lines.append(f"has_{name}={'true' if stage else 'false'}")
    return "\n".join(lines) + "\n"


def _entry(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": row["name"],
        "recipes": shlex.join(row["recipes"]),
        "runner": row["runner"],
        "gpus": row["gpus"],
        "sm": row["sm"],
        "memory_gib": row["memory_gib"],
        "minutes": max(1, round(row["seconds"] / 60)),
    }


BASE = ".mmbuild"
"""The hidden job that all jobs extend, where a file that has it is included."""

_RESERVED = frozenset(
    (
        "after_script",
        "before_script",
        "cache",
        "default",
        "false",
        "image",
        "include",
        "nil",
        "pages",
        "pages:deploy",
        "services",
        "spec",
        "stages",
        "true",
        "variables",
        "workflow",
    )
)
"""Reserved job names ("CI/CD YAML syntax reference", unavailable names for jobs, and global keywords)."""

_HEAD = "# Made by `mmbuild ci plan --format gitlab`: a child pipeline.\n"
_STAGES = {"source": "sources", "shared": "shared", "engine": "engines"}


def pipeline(found: Sequence[Mapping[str, Any]], arguments: Sequence[str], include: str | None = None) -> str:
    """Return the child pipeline as YAML.

    Args:
        found: Jobs, from :func:`mmbuild.team.ci.services.rows`.
        arguments: Arguments of ``mmbuild ci run`` in each job, besides the job name: recipes and options.
        include: File in the repository with the hidden job ``.mmbuild`` (image, installation, variables).
    """
    content: dict[str, Any] = {}
    if include is not None:
        content["include"] = [{"local": include}]
    content["stages"] = list(_STAGES.values())
    for row in found:
        content[_name(row["name"])] = _job(row, arguments, extends=include is not None)
    if not found:  # a pipeline without a job is an error
        content["nothing to build"] = {"stage": "engines", "script": ["echo 'no variant changed'"]}
    return _HEAD + yaml.safe_dump(content, sort_keys=False, default_flow_style=False, width=1000)


def _job(row: Mapping[str, Any], arguments: Sequence[str], *, extends: bool) -> dict[str, Any]:
    job: dict[str, Any] = {"extends": BASE} if extends else {}
    job["stage"] = _STAGES[row["kind"]]
    if row["runner"]:
        job["tags"] = row["runner"]
    job["needs"] = [_name(name) for name in row["needs"]]
    job["script"] = [shlex.join(["mmbuild", "ci", "run", *arguments, "--job", row["name"]])]
    return job


def _name(name: str) -> str:
    """Return the job's name in GitLab; ``mmbuild ci run`` always gets the original name."""
    return f"engine {name}" if name in _RESERVED else name
