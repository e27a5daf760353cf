"""Protocol between orchestrator and worker: a job as one line of JSON, and a failure as a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mmbuild.base.files import FileRefusedError, read_object
from mmbuild.base.limits import MESSAGE


@dataclass(frozen=True, slots=True)
class WorkerJob:
    """Everything a worker needs, as plain data.

    Attributes:
        name: Identifies the job in messages between the processes.
        entry: ``module:function`` of the step.
        key: Action key; ``definition`` the definition key; ``body`` the body key.
        inputs: Artifact digest by input name.
        store: Root of the store.
        version: Version of the step; needed, like ``toolchain``, to check ``key``.
        paranoid: Whether to read every input before it is used, even if its stat is unchanged.
        journal: Whether the worker appends to the journal. If not, it sends the record to the orchestrator, which
            appends it: lines that several hosts append to a file on NFS can overwrite each other.
        preload: Modules to import before the worker is forked, of those that the fork server was started with.
    """

    name: str
    label: str
    step: str
    entry: str
    key: str
    definition: str
    body: str
    params: Mapping[str, Any]
    target: Mapping[str, Any]
    inputs: Mapping[str, str]
    sources: Mapping[str, str]
    locators: Mapping[str, str]
    cores: int
    gpus: tuple[str, ...]
    store: str
    log: str
    version: str = ""
    toolchain: Mapping[str, str] = field(default_factory=dict)
    paranoid: bool = False
    journal: bool = True
    preload: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Failure:
    """Description of a failed step.

    Attributes:
        message: One line.
        code: Code of the :class:`~mmbuild.base.errors.MmbuildError`, or None for any other exception.
        hint: What to do.
        causes: Messages of the exceptions it was raised from, nearest first.
        traceback: For ``--debug`` and the log.
    """

    message: str
    code: str | None
    hint: str | None
    causes: tuple[str, ...]
    traceback: str


def job_line(job: WorkerJob) -> bytes:
    """Return ``job`` as one line. Not ``asdict``: the parameters are already plain JSON data and need no copy."""
    data = {name: getattr(job, name) for name in WorkerJob.__slots__}
    return json.dumps(data, default=dict).encode() + b"\n"


def parse_job(line: bytes) -> WorkerJob:
    """Parse the output of :func:`job_line`."""
    data = json.loads(line)
    return WorkerJob(**{**data, "gpus": tuple(data["gpus"]), "preload": tuple(data["preload"])})


def write_failure(directory: Path, failure: Failure) -> None:
    (directory / "failure.json").write_text(json.dumps(asdict(failure)), encoding="utf-8")


def read_failure(directory: Path) -> Failure | None:
    """Return the failure that the worker wrote, or None if it died first."""
    try:
        data = read_object(directory / "failure.json", MESSAGE)
        return Failure(**{**data, "causes": tuple(data["causes"])})
    except (OSError, ValueError, TypeError, KeyError, FileRefusedError):
        return None
