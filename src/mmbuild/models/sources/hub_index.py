"""Lists the files of a commit on the hub with size and digest, from the hub or, without a network, from its cache.

A commit never changes, so its listing is cached next to the cache's blobs, in the format of ``huggingface_hub``'s
``trees/<commit>.json``, which is read too. If neither exists, the listing is derived from the cache's snapshot, which
has the downloaded files as links to blobs named by their digests.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmbuild.base.files import FileRefusedError, entries, read_object
from mmbuild.base.limits import HUB_LISTING

_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a commit.

    Attributes:
        name: Path in the repository.
        size: Bytes.
        digest: SHA-256 of a file in LFS, git's blob id (SHA-1) of others; hexadecimal.
    """

    name: str
    size: int
    digest: str


Listing = Mapping[str, HubFile]
DATA_SETS = "datasets/"
"""Prefix of names of data sets, as in their URLs; ``owner/name`` alone is a model."""


def repo_kind(repo: str) -> tuple[str, str]:
    """``owner/name`` and the hub's type of repository: ``dataset`` or ``model``."""
    if repo.startswith(DATA_SETS) and repo.count("/") == 2:
        return repo.removeprefix(DATA_SETS), "dataset"
    return repo, "model"


def repo_folder(repo: str) -> Path:
    """Directory of a repository in the hub cache."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    name, kind = repo_kind(repo)
    return Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=name, repo_type=kind))


def query(repo: str, commit: str) -> Listing:
    """Get the listing from the hub and cache it for :func:`cached_listing`.

    Raises:
        Exception: Errors of ``huggingface_hub`` and httpx.
    """
    from huggingface_hub import HfApi

    name, kind = repo_kind(repo)
    requested = HfApi().repo_info(name, revision=commit, repo_type=kind, files_metadata=True)
    siblings = requested.siblings or ()
    listing = {item.rfilename: _stated(item) for item in siblings}
    with suppress(OSError):  # a read-only cache is still usable
        _save(_own(repo, commit), listing)
    return listing


def _save(path: Path, listing: Listing) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(_to_json(listing), indent=1, sort_keys=True) + "\n", encoding="utf-8")
    partial.replace(path)


def _stated(sibling: Any) -> HubFile:
    lfs = sibling.lfs
    return HubFile(sibling.rfilename, int(sibling.size or 0), str(lfs.sha256 if lfs else sibling.blob_id))


def cached_listing(repo: str, commit: str) -> Listing | None:
    """The listing from the cache; None if nothing is cached."""
    for path in (_own(repo, commit), repo_folder(repo) / "trees" / f"{commit}.json"):
        try:
            return _from_json(read_object(path, HUB_LISTING))
        except (OSError, FileRefusedError, ValueError, KeyError, TypeError, AttributeError):
            continue  # missing, damaged, or of another format: try the next one
    return _snapshot(repo_folder(repo) / "snapshots" / commit)


def _own(repo: str, commit: str) -> Path:
    return repo_folder(repo) / "mmbuild" / f"{commit}.json"


def _to_json(listing: Listing) -> dict[str, Any]:
    files: dict[str, dict[str, Any]] = {}
    for file in listing.values():
        key = "lfs_sha256" if len(file.digest) == 64 else "blob_id"
        files[file.name] = {"size": file.size, key: file.digest}
    return {"format_version": _FORMAT, "files": files}


def _from_json(content: Mapping[str, Any]) -> Listing:
    if content["format_version"] != _FORMAT:
        raise ValueError("another format")
    return {
        name: HubFile(name, int(info["size"]), str(info.get("lfs_sha256") or info["blob_id"]))
        for name, info in content["files"].items()
    }


def _snapshot(directory: Path) -> Listing | None:
    try:
        paths = [path for path in entries(directory) if path.is_file()]
    except (OSError, FileRefusedError):
        return None
    blobs = {path.name: path.resolve() for path in paths}
    listing = {
        name: HubFile(name, blob.stat().st_size, blob.name)
        for name, blob in blobs.items()
        if _DIGEST.fullmatch(blob.name)
    }
    return listing or None
