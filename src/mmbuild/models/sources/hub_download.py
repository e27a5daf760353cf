"""Downloads one file from the hub to the hub cache, with resumption and verification of the hub's digest.

``huggingface_hub`` 1.33 restarts a download if its process died, and does not verify digests. So this module receives
the bytes itself, with ``http_get``, to a partial file next to the cache's blobs; ``huggingface_hub`` handles
everything else (URLs, tokens, proxies, the layout of the cache).
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlparse

from mmbuild.models.errors import SourceError
from mmbuild.models.sources.hub_index import HubFile, repo_folder, repo_kind

# Errors of the local file system, for which retrying is useless.
LOCAL_FAULTS = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT))
_ATTEMPTS = 5
_PAUSE = 1.0  # seconds before the second attempt; doubles with each attempt
_CHUNK = 4 << 20

Received = Callable[[int, int], None]
"""``received(bytes, kept)``: how many bytes of a file are here, and how many of them an earlier download left."""


@dataclass(frozen=True, slots=True)
class HubFileRequest:
    """A file in a repository.

    Attributes:
        repo: ``owner/name`` of a model, ``datasets/owner/name`` of a data set.
        commit: 40 hexadecimal digits.
        file: The hub's metadata of the file.
    """

    repo: str
    commit: str
    file: HubFile

    @property
    def name(self) -> str:
        """Path in the repository."""
        return self.file.name

    def hasher(self) -> Any:
        """A new hash object of the file's kind of digest."""
        if len(self.file.digest) == 64:
            return hashlib.sha256()
        # Git hashes a header with the size before the content.
        return hashlib.sha1(b"blob %d\0" % self.file.size, usedforsecurity=False)


class _Sink:
    """Output of ``http_get``: a file and the hash of its content.

    Attributes:
        kept: Bytes that an earlier download has left in the file.
    """

    def __init__(self, file: BinaryIO, request: HubFileRequest, received: Received) -> None:
        self.file, self.request, self.received = file, request, received
        self.hash = request.hasher()
        file.seek(0)
        while chunk := file.read(_CHUNK):
            self.hash.update(chunk)
        self.kept = file.tell()
        self.received(self.kept, self.kept)

    def write(self, chunk: bytes) -> int:
        self.hash.update(chunk)
        self.file.write(chunk)
        self.received(self.file.tell(), self.kept)
        return len(chunk)

    def tell(self) -> int:
        return self.file.tell()

    def seek(self, offset: int) -> int:
        return self.file.seek(offset)

    def truncate(self) -> None:
        """Start over, because the server restarted the download."""
        self.file.truncate()
        self.hash = self.request.hasher()
        self.kept = 0


def fetch(request: HubFileRequest, destination: Path, received: Received) -> None:
    """Fetch a file from the cache or the hub.

    Args:
        request: The file.
        destination: Must not exist; a hard link to the cached file if possible.
        received: Called as :data:`Received` while bytes arrive; never for a file that is complete in the cache.

    Raises:
        SourceError: MM423, two downloads have the wrong size or digest.
        Exception: Errors of ``huggingface_hub`` and httpx, after several attempts.
    """
    blob = _blob(request)
    if not (blob.is_file() and _file_digest(blob, request) == request.file.digest):
        blob.unlink(missing_ok=True)
        if not (_receive(request, blob, received) or _receive(request, blob, received)):
            raise SourceError(
                f"two downloads of `{request.name}` from `{request.repo}` do not match the hub's size and digest: "
                f"{request.file.size} bytes and {request.file.digest[:12]}",
                code="MM423",
                hint="a proxy or mirror may change files; check HF_ENDPOINT and the network",
            )
    _take(blob, destination)


def _blob(request: HubFileRequest) -> Path:
    """Path of the content in the hub cache."""
    return repo_folder(request.repo) / "blobs" / request.file.digest


def _receive(request: HubFileRequest, blob: Path, received: Received) -> bool:
    """Download to the cache; False if size or digest is wrong."""
    blob.parent.mkdir(parents=True, exist_ok=True)
    partial = blob.with_name(blob.name + ".mmbuild.incomplete")
    with partial.open("a+b", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if blob.exists():  # another process has completed it, and `partial` is now its blob
            return True
        sink = _Sink(file, request, received)
        _retried(lambda: _get(request, sink))
        if (sink.tell(), sink.hash.hexdigest()) != (request.file.size, request.file.digest):
            partial.unlink()
            return False
        os.replace(partial, blob)
    _retried(lambda: _register(request))
    return True


def _get(request: HubFileRequest, sink: _Sink) -> None:
    """Receive the missing bytes."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    start = sink.file.seek(0, os.SEEK_END)
    if start >= request.file.size:
        return
    repo, kind = repo_kind(request.repo)
    url = hf_hub_url(repo, request.name, repo_type=kind, revision=request.commit)
    location = get_hf_file_metadata(url).location
    headers = build_hf_headers()
    if urlparse(location).netloc != urlparse(url).netloc:
        headers.pop("authorization", None)  # do not send the token to another host
    http_get(location, sink, resume_size=start, headers=headers, displayed_filename=request.name)


def _register(request: HubFileRequest) -> None:
    """Link the blob under its file name in the hub cache; downloads nothing."""
    from huggingface_hub import hf_hub_download

    repo, kind = repo_kind(request.repo)
    hf_hub_download(repo, request.name, repo_type=kind, revision=request.commit)


def _retried(work: Callable[[], None]) -> None:
    """Retry after connection and server errors; partial downloads are kept."""
    import httpx
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    for attempt in range(_ATTEMPTS):
        last = attempt == _ATTEMPTS - 1
        try:
            return work()
        except HfHubHTTPError as error:
            if last or error.response is None or error.response.status_code < 500:
                raise
        except OfflineModeIsEnabled:
            raise
        except httpx.TransportError:
            if last:
                raise
        except OSError as error:
            if last or error.errno in LOCAL_FAULTS:
                raise
        time.sleep(_PAUSE * 2**attempt)
    return None


def _file_digest(path: Path, request: HubFileRequest) -> str | None:
    if path.stat().st_size != request.file.size:
        return None
    hasher = request.hasher()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            hasher.update(chunk)
    return str(hasher.hexdigest())


def _take(blob: Path, destination: Path) -> None:
    try:
        os.link(os.path.realpath(blob), destination)
    except OSError:
        shutil.copyfile(blob, destination)
