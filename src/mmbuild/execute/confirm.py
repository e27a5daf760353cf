"""The last look before a result is published: is it still the result of what its key says?"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from types import MappingProxyType

from mmbuild.base.files import FileRefusedError
from mmbuild.errors import MmbuildError
from mmbuild.execute.job import Job
from mmbuild.graph.keys import job_key
from mmbuild.store.intact import changed_source
from mmbuild.store.layout import Store
from mmbuild.store.roots import seen_of
from mmbuild.store.statindex import Index
from mmbuild.store.tree import Seen

_DIGEST_LENGTH = 64


def seen_sources(job: Job) -> dict[str, Seen]:
    """Stat of the user's files that a step is about to read, by path, without those that cannot be read."""
    found: dict[str, Seen] = {}
    for path, _ in _sources(job):
        try:
            for name in _files(job, path) if path.is_dir() else [""]:
                file = str(path / name)
                found[file] = seen_of(os.stat(file))
        except (OSError, MmbuildError):
            continue  # what is wrong is found by the digest
    return found


def confirm(store: Store, job: Job, before: Mapping[str, Seen] = MappingProxyType({})) -> None:
    """Compare the key with what the step was given, and the user's files with what was planned.

    Args:
        store: Where the result goes.
        job: What made it.
        before: :func:`seen_sources` from before the step ran. A file that was changed and changed back holds what was
            planned, but the step may have read something else.

    Raises:
        MmbuildError: MM326 the key is of something else, MM319 a file of the user changed while the step ran.
    """
    if job.key != job_key(job):
        raise MmbuildError(
            f"the key of `{job.label}` is not that of its parameters and inputs",
            code="MM326",
            hint="nothing was published; apply again, and check the memory of this machine if it happens again",
        )
    with closing(Index(store)) as index:
        for path, expected in _sources(job):
            _confirm_source(job, path, expected, index)
    now = seen_sources(job)
    for file, seen in before.items():
        if now.get(file) != seen:
            raise changed_source(file, "was written to while the step read it")


def _sources(job: Job) -> Iterator[tuple[Path, str]]:
    """The user's files and directories that the step reads, with their digests."""
    for name, expected in job.sources.items():
        locator = job.locators.get(name, "")
        if locator.startswith("/") and len(expected) == _DIGEST_LENGTH:
            yield Path(locator), expected


def _confirm_source(job: Job, path: Path, expected: str, index: Index) -> None:
    try:
        found = _tree(job, path, index) if path.is_dir() else index.content(path)
    except (OSError, FileRefusedError) as error:
        raise changed_source(str(path), f"cannot be read any more ({error})") from error
    if found != expected:
        raise changed_source(str(path), "changed after it was planned")


def _tree(job: Job, directory: Path, index: Index) -> str:
    """As the download action of a model's directory is keyed (:func:`mmbuild.sources.resolve.identify`)."""
    from mmbuild.sources.resolve import tree_digest

    return tree_digest(
        directory, index.content, weights=_weights(job), directories=job.params.get("directories", ())
    )


def _files(job: Job, directory: Path) -> list[str]:
    from mmbuild.sources.resolve import source_files

    return source_files(directory, weights=_weights(job), directories=job.params.get("directories", ()))


def _weights(job: Job) -> bool:
    return job.params.get("kind") == "path"
