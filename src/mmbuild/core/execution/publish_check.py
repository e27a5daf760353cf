"""Final check before a result is published: its key and sources must still match."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from types import MappingProxyType

from mmbuild.base.errors import MmbuildError
from mmbuild.base.field_checks import DIGEST_LENGTH
from mmbuild.base.files import FileRefusedError
from mmbuild.core.execution.job import WorkerJob
from mmbuild.core.graph.keys import job_key
from mmbuild.core.steps.registry import DIRECTORIES
from mmbuild.core.store.integrity import changed_source
from mmbuild.core.store.layout import Store
from mmbuild.core.store.manifest import Seen
from mmbuild.core.store.named_builds import seen_of
from mmbuild.core.store.stat_cache import StatCache

_SOURCES = importlib.import_module(DIRECTORIES)


def seen_sources(job: WorkerJob) -> dict[str, Seen]:
    """Return the stat of the user's files that a step is about to read, by path; unreadable files are left out."""
    stats: dict[str, Seen] = {}
    for path, _ in _sources(job):
        with suppress(OSError, MmbuildError):  # comparing digests reports the problem later
            stats.update(_seen(path, _names(job, path)))
    return stats


def confirm(store: Store, job: WorkerJob, before: Mapping[str, Seen] = MappingProxyType({})) -> None:
    """Check the key against the job, and the user's files against the plan.

    Args:
        store: The store to publish to.
        job: The job that produced the result.
        before: :func:`seen_sources` from before the step ran. A file that was changed and changed back has the
            planned content, but the step may have read something else.

    Raises:
        MmbuildError: MM326, the key does not match the job; MM319, a user file changed while the step ran.
    """
    if job.key != job_key(job):
        raise MmbuildError(
            f"the key of `{job.label}` does not match its parameters and inputs",
            code="MM326",
            hint="nothing was published; apply again, and test this machine's memory if it happens again",
        )
    now: dict[str, Seen] = {}
    with closing(StatCache(store)) as index:
        for path, expected in _sources(job):
            now.update(_confirm_source(job, path, expected, index))
    for file, seen in before.items():
        if now.get(file) != seen:
            raise changed_source(file, "was written to while the step read it")


def _sources(job: WorkerJob) -> Iterator[tuple[Path, str]]:
    """Yield the user's files and directories that the step reads, with their digests."""
    for name, expected in job.sources.items():
        locator = job.locators.get(name, "")
        if locator.startswith("/") and len(expected) == DIGEST_LENGTH:
            yield Path(locator), expected


def _confirm_source(job: WorkerJob, path: Path, expected: str, index: StatCache) -> dict[str, Seen]:
    """Return the stat of the files, taken after their contents were compared."""
    try:
        names = _names(job, path)
        digest = index.content(path) if names is None else _SOURCES.files_digest(path, names, index.content)
        if digest == expected:
            return _seen(path, names)
    except (OSError, FileRefusedError) as error:
        raise changed_source(str(path), f"can no longer be read ({error})") from error
    raise changed_source(str(path), "changed after it was planned")


def _names(job: WorkerJob, path: Path) -> list[str] | None:
    """Return the files of a model directory that its download action's key covers; None if not a directory."""
    if not path.is_dir():
        return None
    weights = job.params.get("kind") == "path"
    names: list[str] = _SOURCES.source_files(
        path, weights=weights, directories=job.params.get("directories", ())
    )
    return names


def _seen(path: Path, names: Iterable[str] | None) -> dict[str, Seen]:
    files = [str(path)] if names is None else [f"{path}/{name}" for name in names]
    return {file: seen_of(os.stat(file)) for file in files}
