"""A job: one action as a worker gets it, as one line of JSON; and how a failure comes back, as a file."""

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
    """Everything a worker needs; plain data.

    Attributes:
        name: Names the job in messages between the processes.
        entry: ``module:function`` of the step.
        key: Action key; ``definition`` the definition key; ``body`` the body key.
        inputs: Artifact digest by input name.
        store: Root of the store.
        version: Of the step; with ``toolchain`` and the rest it is what ``key`` is the digest of.
        paranoid: Whether to read every input before it is used, whatever its stat.
        journal: Whether the worker writes the journal's line; else it sends the record, and whoever gets it writes
            it: lines that several hosts append to a file of NFS can overwrite each other.
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


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a step failed.

    Attributes:
        message: One line.
        code: Code of the :class:`~mmbuild.base.errors.MmbuildError`, or None for any other exception.
        hint: What to do.
        causes: Messages of the exceptions it came from, nearest first.
        traceback: For ``--debug`` and the log.
    """

    message: str
    code: str | None
    hint: str | None
    causes: tuple[str, ...]
    traceback: str


def job_line(job: WorkerJob) -> bytes:
    """``job`` as one line. Its parameters are plain JSON data already, so nothing is copied first."""
    data = {name: getattr(job, name) for name in WorkerJob.__slots__}
    return json.dumps(data, default=dict).encode() + b"\n"


def parse_job(line: bytes) -> WorkerJob:
    """Read :func:`job_line`'s form."""
    data = json.loads(line)
    return WorkerJob(**{**data, "gpus": tuple(data["gpus"])})


def write_failure(directory: Path, failure: Failure) -> None:
    (directory / "failure.json").write_text(json.dumps(asdict(failure)), encoding="utf-8")


def read_failure(directory: Path) -> Failure | None:
    """What the worker left, or None where it died before it could say anything."""
    try:
        data = read_object(directory / "failure.json", MESSAGE)
        return Failure(**{**data, "causes": tuple(data["causes"])})
    except (OSError, ValueError, TypeError, KeyError, FileRefusedError):
        return None
