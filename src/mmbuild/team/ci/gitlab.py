"""Jobs as a child pipeline of GitLab, with ``needs`` between them.

Sources: "Downstream pipelines", dynamic child pipelines (``trigger: include: artifact``), and "CI/CD YAML syntax
reference", ``needs``, ``tags``, ``extends`` (hidden jobs begin with a dot).
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

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
"""Names that no job can have ("CI/CD YAML syntax reference", unavailable names for jobs, and global keywords)."""

_HEAD = "# Made by `mmbuild matrix --format gitlab`: a child pipeline.\n"
_STAGES = {"source": "sources", "shared": "shared", "engine": "engines"}


def pipeline(found: Sequence[Mapping[str, Any]], arguments: Sequence[str], include: str | None = None) -> str:
    """The child pipeline as YAML.

    Args:
        found: Jobs, from :func:`mmbuild.team.ci.job_rows.rows`.
        arguments: What each job says to ``mmbuild ci`` besides its name: recipes and options.
        include: A file of the repository with the hidden job ``.mmbuild`` (image, installation, variables).
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
    job["script"] = [shlex.join(["mmbuild", "ci", *arguments, "--job", row["name"]])]
    return job


def _name(name: str) -> str:
    """What the job is called there; ``mmbuild ci`` is told its own name."""
    return f"engine {name}" if name in _RESERVED else name
