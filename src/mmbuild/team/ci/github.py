"""Jobs as outputs of a GitHub job: ``strategy.matrix: ${{ fromJSON(needs.plan.outputs.engines) }}``.

Sources: "Workflow syntax for GitHub Actions", ``jobs.<job_id>.strategy.matrix`` (a matrix makes at most 256 jobs, and
one job of a matrix cannot need another), "Workflow commands", setting an output parameter (``name=value`` lines).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mmbuild.team.ci.errors import CiError

MAX_JOBS = 256
STAGES: Mapping[str, str] = {"sources": "source", "shared": "shared", "engines": "engine"}
"""Name of the output -> kind of its jobs, in the order of running."""


def outputs(found: Sequence[Mapping[str, Any]]) -> str:
    """Lines for ``$GITHUB_OUTPUT``: for each stage ``NAME={"include": [...]}`` and ``has_NAME=true|false``.

    Recipes are text with blanks between, which is what a shell takes; ``runner`` stays a list, for ``runs-on``.

    Raises:
        CiError: MM814, more jobs than GitHub makes of a matrix.
    """
    lines: list[str] = []
    for name, kind in STAGES.items():
        stage = [row for row in found if row["kind"] == kind]
        if len(stage) > MAX_JOBS:
            raise CiError(
                f"the matrix `{name}` has {len(stage)} jobs, and GitHub makes at most {MAX_JOBS} of one",
                code="MM814",
                hint="Name fewer recipes for each workflow, or use --changed-since",
            )
        include = [_entry(row) for row in stage]
        lines.append(f"{name}={json.dumps({'include': include}, separators=(',', ':'))}")
        lines.append(f"has_{name}={'true' if stage else 'false'}")
    return "\n".join(lines) + "\n"


def _entry(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": row["name"],
        "recipes": " ".join(row["recipes"]),
        "runner": row["runner"],
        "gpus": row["gpus"],
        "sm": row["sm"],
        "memory_gib": row["memory_gib"],
        "minutes": max(1, round(row["seconds"] / 60)),
    }
