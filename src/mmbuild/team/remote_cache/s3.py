"""A place behind S3, and what it can do beside the operations of any place: uploads that can be gone on with."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmbuild.team.remote_cache.object_store import ObjectStore
from mmbuild.team.remote_cache.retrying_client import UnreachableError

if TYPE_CHECKING:
    from mmbuild.team.remote_cache.remote_cache import SharedStore


@dataclass(frozen=True, slots=True)
class UploadPart:
    """One part of an upload that has arrived: its number from 1, bytes, and what the server says of its content."""

    number: int
    size: int
    etag: str


class S3Store(ObjectStore):
    """Multipart uploads as in the S3 API (CreateMultipartUpload, ListParts, UploadPart, CompleteMultipartUpload).

    An upload stays on the server until it is completed or aborted; nothing of it is visible before.
    """

    def upload(self, name: str) -> str:
        """Id of the last upload of ``name`` that was begun and not ended; of a new one where there is none."""
        begun = [item for item in self._begun(self._key(name)) if item["Key"] == self._key(name)]
        if begun:
            return str(max(begun, key=lambda item: item["Initiated"])["UploadId"])
        return str(self._call("create_multipart_upload", Key=self._key(name))["UploadId"])

    def parts(self, name: str, upload: str) -> list[UploadPart]:
        """What has arrived.

        Raises:
            FileNotFoundError: The upload was completed or aborted.
        """
        found: list[UploadPart] = []
        marker: Mapping[str, Any] = {}
        while True:
            page = self._call("list_parts", Key=self._key(name), UploadId=upload, **marker)
            found += [
                UploadPart(item["PartNumber"], item["Size"], item["ETag"].strip('"'))
                for item in page.get("Parts", ())
            ]
            if not page.get("IsTruncated"):
                return found
            marker = {"PartNumberMarker": page["NextPartNumberMarker"]}

    def put_part(self, name: str, upload: str, number: int, content: bytes) -> str:
        """Send a part, in place of what has its number; its ETag."""
        done = self._call(
            "upload_part", Key=self._key(name), UploadId=upload, PartNumber=number, Body=content
        )
        return str(done["ETag"]).strip('"')

    def complete(self, name: str, upload: str, etags: Sequence[str]) -> None:
        """Make a file of the parts with the numbers 1 to N."""
        parts = [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(etags, 1)]
        self._call(
            "complete_multipart_upload",
            Key=self._key(name),
            UploadId=upload,
            MultipartUpload={"Parts": parts},
        )

    def abort_older(self, than: float) -> int:
        """Give up uploads that were begun before ``than``, seconds since the epoch; how many there were."""
        old = [item for item in self._begun(self._key("")) if item["Initiated"].timestamp() < than]
        for item in old:
            self._call("abort_multipart_upload", Key=item["Key"], UploadId=item["UploadId"])
        return len(old)

    def _begun(self, prefix: str) -> list[Mapping[str, Any]]:
        found: list[Mapping[str, Any]] = []
        marker: Mapping[str, Any] = {}
        while True:
            page = self._call("list_multipart_uploads", Prefix=prefix, **marker)
            found += page.get("Uploads") or ()
            if not page.get("IsTruncated"):
                return found
            marker = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}

    def _key(self, name: str) -> str:
        key: str = self.files.split_path(self._path(name))[1]
        return key

    def _call(self, operation: str, **arguments: Any) -> Mapping[str, Any]:
        bucket = self.files.split_path(self.root)[0]
        answer: Mapping[str, Any] = self.files.call_s3(operation, Bucket=bucket, **arguments)
        return answer


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
