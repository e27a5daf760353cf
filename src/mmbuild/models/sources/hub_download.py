"""One file of the hub into the hub's cache: resumed, hashed while it arrives, compared with the hub's digest.

``huggingface_hub`` 1.33 starts a file over when its process died, and compares no digest. So the bytes
are received here, by its ``http_get`` into a partial file of ours beside the cache's blobs; everything else
(addresses, tokens, proxies, the layout of the cache) stays its own.
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

# Faults of this machine's file system: asking the hub again is useless.
LOCAL_FAULTS = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT))
_ATTEMPTS = 5
_PAUSE = 1.0  # seconds before the second attempt, doubled for each further one
_CHUNK = 4 << 20


@dataclass(frozen=True, slots=True)
class HubFileRequest:
    """A file and where it is.

    Attributes:
        repo: ``owner/name`` of a model, ``datasets/owner/name`` of a data set.
        commit: 40 hexadecimal digits.
        file: What the hub states of it.
    """

    repo: str
    commit: str
    file: HubFile

    @property
    def name(self) -> str:
        """Path in the repository."""
        return self.file.name

    def hasher(self) -> Any:
        """A fresh hash that gives the file's digest."""
        if len(self.file.digest) == 64:
            return hashlib.sha256()
        # Git hashes a header with the size before the content.
        return hashlib.sha1(b"blob %d\0" % self.file.size, usedforsecurity=False)


class _Sink:
    """What ``http_get`` writes into: a file and the hash of its content."""

    def __init__(self, file: BinaryIO, request: HubFileRequest, received: Callable[[int], None]) -> None:
        self.file, self.wanted, self.received = file, request, received
        self.hash = request.hasher()
        file.seek(0)
        while chunk := file.read(_CHUNK):
            self.hash.update(chunk)

    def write(self, chunk: bytes) -> int:
        self.hash.update(chunk)
        self.file.write(chunk)
        self.received(self.file.tell())
        return len(chunk)

    def tell(self) -> int:
        return self.file.tell()

    def seek(self, offset: int) -> int:
        return self.file.seek(offset)

    def truncate(self) -> None:
        """The server began from the start again, so the hash does too."""
        self.file.truncate()
        self.hash = self.wanted.hasher()


def fetch(request: HubFileRequest, destination: Path, received: Callable[[int], None]) -> None:
    """Put a file into ``destination``, from the cache or the hub.

    Args:
        request: Which file.
        destination: Must not exist; the same bytes on disk as the cache's where the file system allows it.
        received: Told the number of bytes that have arrived.

    Raises:
        SourceError: MM423, it arrived twice with another size or digest.
        Exception: Whatever ``huggingface_hub`` and httpx raise, after attempts enough.
    """
    blob = _blob(request)
    if not (blob.is_file() and _file_digest(blob, request) == request.file.digest):
        blob.unlink(missing_ok=True)
        if not (_receive(request, blob, received) or _receive(request, blob, received)):
            raise SourceError(
                f"`{request.name}` of `{request.repo}` arrived twice with another size or digest than the "
                f"{request.file.size} bytes and {request.file.digest[:12]} that the hub states",
                code="MM423",
                hint="A proxy or mirror changes files; check HF_ENDPOINT and the network",
            )
    _take(blob, destination)


def _blob(request: HubFileRequest) -> Path:
    """Where the hub's cache keeps the content."""
    return repo_folder(request.repo) / "blobs" / request.file.digest


def _receive(request: HubFileRequest, blob: Path, received: Callable[[int], None]) -> bool:
    """Fetch into the cache; False where what arrived is not what the hub states."""
    blob.parent.mkdir(parents=True, exist_ok=True)
    partial = blob.with_name(blob.name + ".mmbuild.incomplete")
    with partial.open("a+b", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if blob.exists():  # another process was faster, and `partial` is its blob by now
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
    """Receive what is not there yet."""
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
        headers.pop("authorization", None)  # a signed address elsewhere: the token is none of its business
    http_get(location, sink, resume_size=start, headers=headers, displayed_filename=request.name)


def _register(request: HubFileRequest) -> None:
    """Let the hub's cache know the blob under its name; fetches nothing."""
    from huggingface_hub import hf_hub_download

    repo, kind = repo_kind(request.repo)
    hf_hub_download(repo, request.name, repo_type=kind, revision=request.commit)


def _retried(work: Callable[[], None]) -> None:
    """Broken connections and server errors are tried again; what arrived is kept in between."""
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
