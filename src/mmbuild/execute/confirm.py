"""The last look before a result is published: is it still the result of what its key says?"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from mmbuild.base.files import FileRefusedError
from mmbuild.errors import MmbuildError
from mmbuild.execute.job import Job
from mmbuild.graph.keys import job_key
from mmbuild.store.intact import changed_source
from mmbuild.store.layout import Store
from mmbuild.store.statindex import Index

_DIGEST_LENGTH = 64


def confirm(store: Store, job: Job) -> None:
    """Compare the key with what the step was given, and the user's files with what was planned.

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
        for name, expected in job.sources.items():
            locator = job.locators.get(name, "")
            if locator.startswith("/") and len(expected) == _DIGEST_LENGTH:
                _confirm_source(job, Path(locator), expected, index)


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

    weights = job.params.get("kind") == "path"
    return tree_digest(
        directory, index.content, weights=weights, directories=job.params.get("directories", ())
    )
