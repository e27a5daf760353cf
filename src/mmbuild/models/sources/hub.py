"""Access to the Hugging Face hub through ``huggingface_hub``.

``HF_ENDPOINT``, ``HF_TOKEN``, ``HF_HOME``, ``HF_HUB_OFFLINE`` and the hub cache work as usual: interrupted downloads
are resumed, and cached files are not downloaded again. Repositories are named ``owner/name``, data sets
``datasets/owner/name``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmbuild.base.files import FileRefusedError, read_file, read_object
from mmbuild.base.limits import MODEL_JSON
from mmbuild.base.pins import NO_PINS, Pins
from mmbuild.base.progress import BYTES, Amount, Progress
from mmbuild.models.errors import SourceError
from mmbuild.models.files import adapters, hf_layout
from mmbuild.models.sources import hub_index
from mmbuild.models.sources.hub_download import HubFileRequest, fetch
from mmbuild.models.sources.hub_errors import UnreachableError, explained, revision_key

# Limit for files fetched during validation: enough for a tokenizer with several hundred thousand tokens.
_SMALL_BYTES = 20_000_000
_COMMIT = re.compile(r"[0-9a-f]{40}")


def fetch_config(repo: str, revision: str | None, pins: Pins = NO_PINS) -> Mapping[str, Any]:
    """Fetch ``config.json`` of a hub model, at the pinned commit if ``pins`` has one.

    Raises:
        SourceError: The hub is unreachable, the model or file does not exist or access is denied, or it is not JSON.
        ModelFilesError: MM734, the repository contains an adapter, not a model.
    """
    from huggingface_hub import errors, hf_hub_download

    try:  # first, because the client tries this once, and a file six times, with a line for each
        commit: str | None = resolve_revision(repo, revision, pins=pins)
    except UnreachableError:
        raise
    except SourceError:  # the file may be in the cache, or its own error says more
        commit = revision
    try:
        with explained(repo, revision):
            path = hf_hub_download(repo, "config.json", revision=commit)
    except SourceError as error:
        if isinstance(error.__cause__, errors.EntryNotFoundError):
            with suppress(SourceError):
                fetch_small_files(repo, revision, pins=pins)
        raise
    try:
        return read_object(path, MODEL_JSON)
    except FileRefusedError as error:
        raise SourceError(
            f"config.json of `{repo}` {error.problem}", code="MM411", hint="check the model on the hub"
        ) from None


def fetch_small_files(
    repo: str, revision: str | None, directories: Sequence[str] = (), pins: Pins = NO_PINS
) -> Path:
    """Fetch the small files of a model; returns their directory in the hub cache.

    Args:
        repo: ``owner/name``.
        revision: Branch, tag or commit; None is ``main``.
        directories: Subdirectories that also contain files of the model.
        pins: Commits that replace branches and tags.

    Raises:
        SourceError: The hub is unreachable or denies access.
        ModelFilesError: MM734, the repository contains an adapter and no weights.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()  # short downloads, and bars would garble the command's output
    commit = resolve_revision(repo, revision, pins=pins)
    with explained(repo, commit):
        files = hub_index.query(repo, commit)
        required = [name for name in hf_layout.required_files(files, directories) if hf_layout.is_small(name)]
        required += [adapters.CONFIG] if adapters.CONFIG in files else []
        for name in required:
            if files[name].size <= _SMALL_BYTES:
                hf_hub_download(repo, name, revision=commit)
    place = hub_index.repo_folder(repo) / "snapshots" / commit
    adapters.refuse_adapter_only(f"hf://{repo}", set(files), place)
    return place


def resolve_revision(repo: str, revision: str | None, *, offline: bool = False, pins: Pins = NO_PINS) -> str:
    """Resolve a branch or tag to a commit, 40 hexadecimal digits.

    A pinned commit takes precedence. The hub's answer is stored in its cache, as ``huggingface_hub`` does; without a
    network, or with ``offline``, the cached answer is used.

    Raises:
        SourceError: MM420, the model or revision does not exist; MM421, access is denied; MM422, the hub is
            unreachable and nothing is cached.
    """
    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    if (pinned := pins.commit(repo, revision)) is not None:
        return pinned
    name = revision or "main"
    cached = _reference(repo, name)
    from huggingface_hub import constants

    if not (offline or constants.HF_HUB_OFFLINE):
        from huggingface_hub import HfApi

        try:
            with explained(repo, revision):
                repo_id, kind = hub_index.repo_kind(repo)
                answer = HfApi().repo_info(repo_id, revision=name, repo_type=kind)
            commit = _stated(repo, answer.sha)
        except SourceError as error:
            if error.code != "MM422" or not cached.is_file():
                raise
        else:
            with suppress(OSError):  # a read-only cache is still usable
                cached.parent.mkdir(parents=True, exist_ok=True)
                cached.write_text(commit)
            return commit
    if not cached.is_file():
        raise SourceError(
            f"the commit of `{repo}` at `{name}` is not known offline",
            code="MM422",
            hint=f"go online once, or write the commit into {revision_key(repo)}",
        )
    known = _read_reference(cached)
    if known is None:
        raise SourceError(
            f"the hub cache holds no commit for `{repo}` at `{name}` in `{cached}`",
            code="MM422",
            hint=f"remove the file and go online once, or write the commit into {revision_key(repo)}",
        )
    return known


def _read_reference(file: Path) -> str | None:
    """The commit in a reference file of the cache; None if it is invalid."""
    try:
        commit = read_file(file, 1_000).decode("ascii", "replace").strip()
    except (OSError, FileRefusedError):
        return None
    return commit if _COMMIT.fullmatch(commit) else None


def _stated(repo: str, commit: object) -> str:
    if isinstance(commit, str) and _COMMIT.fullmatch(commit):
        return commit
    raise SourceError(
        f"`{repo}`: the hub returned the commit {str(commit)[:80]!r}", code="MM422", hint="check HF_ENDPOINT"
    )


def download(repo: str, commit: str, out: Path, progress: Progress, directories: Sequence[str] = ()) -> None:
    """Download the required files of a model at a commit to ``out``, and verify the hub's digest and size of each.

    Without a network the hub cache is used, if it is complete.

    Raises:
        SourceError: The hub is unreachable or denies access, connections keep failing, or the content differs.
    """
    files = _listing(repo, commit)
    names = hf_layout.required_files(files, directories)
    if not names:
        raise SourceError(
            f"`{repo}` at {commit[:12]} contains no model files",
            code="MM402",
            hint="the model needs config.json and weights in Hugging Face layout",
        )
    fetch_files(repo, commit, files, names, out, progress)


def fetch_files(
    repo: str, commit: str, files: hub_index.Listing, names: Sequence[str], out: Path, progress: Progress
) -> None:
    """Download files of a commit to ``out``, and verify the hub's digest and size of each.

    Args:
        repo: The repository.
        commit: Its commit.
        files: Result of :func:`list_files`.
        names: Names of the files to download.
        out: An existing directory that contains none of them.
        progress: Called with each file and the bytes of all files; bytes of earlier downloads are skipped ones.

    Raises:
        SourceError: The hub denies access, connections keep failing, or the content differs.
    """
    total = sum(files[name].size for name in names)
    done = skipped = 0
    for name in names:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        before = Amount(done, total, BYTES, skipped)
        with explained(repo, commit):
            skipped += _fetch_file(HubFileRequest(repo, commit, files[name]), out / name, before, progress)
        done += files[name].size
        progress(f"downloaded {name}", Amount(done, total, BYTES, skipped))


def _fetch_file(request: HubFileRequest, destination: Path, before: Amount, progress: Progress) -> int:
    """Fetch a file; returns how many of its bytes were in the cache. ``before`` is done without it."""
    cached = request.file.size  # unless something is received

    def received(count: int, kept: int) -> None:
        nonlocal cached
        cached = kept
        amount = replace(before, done=before.done + count, skipped=before.skipped + kept)
        progress(f"downloading {request.name}", amount)

    fetch(request, destination, received)
    return cached


def list_files(repo: str, commit: str, *, offline: bool = False) -> hub_index.Listing:
    """The files of a commit with their sizes and digests; with ``offline``, from the cache.

    Raises:
        SourceError: The hub is unreachable and nothing is cached.
    """
    from huggingface_hub import constants

    if not (offline or constants.HF_HUB_OFFLINE):
        return _listing(repo, commit)
    known = hub_index.cached_listing(repo, commit)
    if known is None:
        raise SourceError(
            f"the files of `{repo}` at {commit[:12]} are not known offline",
            code="MM422",
            hint="go online once",
        )
    return known


def _listing(repo: str, commit: str) -> hub_index.Listing:
    """The commit's files from the hub, or from the cache if the hub is unreachable."""
    try:
        with explained(repo, commit):
            return hub_index.query(repo, commit)
    except SourceError as error:
        known = hub_index.cached_listing(repo, commit) if error.code == "MM422" else None
        if known is None:
            raise
        print(f"{error.message}; continuing with the hub cache")
        return known


def _reference(repo: str, name: str) -> Path:
    return hub_index.repo_folder(repo).joinpath("refs", *name.split("/"))
