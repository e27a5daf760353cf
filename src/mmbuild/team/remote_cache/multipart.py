"""Large files to a bucket in parts: an upload that broke off, or was killed, goes on with the parts that lack."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmbuild.team.remote_cache.retrying_client import UnreachableError

if TYPE_CHECKING:
    from mmbuild.team.remote_cache.remote_cache import SharedStore
    from mmbuild.team.remote_cache.s3 import UploadPart

PART = 16 << 20
"""Bytes of a part, except the last; S3 wants 5 MiB at least."""

_MOST_PARTS = 10_000
"""Of one upload (S3's limit): larger files have larger parts."""

_AT_ONCE = 4
_ATTEMPTS = 3
"""Uploads that are begun anew when somebody else ended the one at work, or removed what it became."""


def upload(shared: SharedStore, name: str, source: Path, size: int) -> int:
    """Bring a file there, whole or not at all.

    Returns:
        Bytes that were carried, without parts that had arrived before; all where somebody else ended the upload.


    The server's ETag of a part is the MD5 of its content unless the bucket encrypts with keys of its own (S3 API,
    "Common response headers"); then all parts are sent again.

    Raises:
        UnreachableError: MM821.
        OSError: ``source`` cannot be read.
    """
    for _ in range(_ATTEMPTS):
        try:
            return _attempt(shared, name, source, size)
        except (FileNotFoundError, UnreachableError) as error:
            # Another machine ended this very upload, or the answer that it is whole got lost.
            if shared.calls.do(lambda: shared.place.size(name)) == size:
                return size
            if isinstance(error, UnreachableError):
                raise
    raise UnreachableError(
        f"`{name}` did not come to stand in the shared store: its upload is ended by somebody again and again",
        code="MM821",
    )


def _attempt(shared: SharedStore, name: str, source: Path, size: int) -> int:
    """One upload, begun here or before; bytes that were sent."""
    place: Any = shared.place
    length = max(PART, -(-size // _MOST_PARTS))
    begun = shared.calls.do(lambda: place.upload(name))
    there = {part.number: part for part in shared.calls.do(lambda: place.parts(name, begun))}
    etags, sent = _send(shared, name, begun, source, (size, length), there)
    shared.calls.do(lambda: place.complete(name, begun, etags), size)
    return sent


def _send(
    shared: SharedStore,
    name: str,
    begun: str,
    source: Path,
    lengths: tuple[int, int],
    there: dict[int, UploadPart],
) -> tuple[list[str], int]:
    """ETags of all parts, and the bytes that were sent."""
    size, length = lengths
    place: Any = shared.place
    descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC)

    def send(number: int) -> tuple[str, int]:
        content = os.pread(descriptor, length, (number - 1) * length)
        digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
        known = there.get(number)
        if known is not None and (known.size, known.etag) == (len(content), digest):
            return known.etag, 0
        etag = shared.calls.do(lambda: place.put_part(name, begun, number, content), len(content))
        return etag, len(content)

    try:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            tasks = [pool.submit(send, number) for number in range(1, -(-size // length) + 1)]
            try:
                done = [task.result() for task in tasks]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    finally:
        os.close(descriptor)
    return [etag for etag, _ in done], sum(sent for _, sent in done)
