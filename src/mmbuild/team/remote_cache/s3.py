"""Multipart uploads to S3 that resume after a failure: only missing parts are sent."""

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
    """An uploaded part: its number from 1, size in bytes, and the server's ETag."""

    number: int
    size: int
    etag: str


class S3Store(ObjectStore):
    """S3 with multipart uploads (CreateMultipartUpload, ListParts, UploadPart, CompleteMultipartUpload).

    An upload stays on the server until it is completed or aborted, and is invisible until it is completed.
    """

    in_parts = True

    def upload(self, name: str) -> str:
        """Return the id of the most recent unfinished upload of ``name``, or of a new one if there is none."""
        unfinished = [item for item in self._unfinished(self._key(name)) if item["Key"] == self._key(name)]
        if unfinished:
            return str(max(unfinished, key=lambda item: item["Initiated"])["UploadId"])
        return str(self._call("create_multipart_upload", Key=self._key(name))["UploadId"])

    def parts(self, name: str, upload: str) -> list[UploadPart]:
        """Return the uploaded parts.

        Raises:
            FileNotFoundError: The upload was completed or aborted.
        """
        parts: list[UploadPart] = []
        marker: Mapping[str, Any] = {}
        while True:
            page = self._call("list_parts", Key=self._key(name), UploadId=upload, **marker)
            parts += [
                UploadPart(item["PartNumber"], item["Size"], item["ETag"].strip('"'))
                for item in page.get("Parts", ())
            ]
            if not page.get("IsTruncated"):
                return parts
            marker = {"PartNumberMarker": page["NextPartNumberMarker"]}

    def put_part(self, name: str, upload: str, number: int, content: bytes) -> str:
        """Upload a part, replacing any part with its number; return its ETag."""
        response = self._call(
            "upload_part", Key=self._key(name), UploadId=upload, PartNumber=number, Body=content
        )
        return str(response["ETag"]).strip('"')

    def complete(self, name: str, upload: str, etags: Sequence[str]) -> None:
        """Assemble the file from the parts 1 to N."""
        parts = [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(etags, 1)]
        self._call(
            "complete_multipart_upload",
            Key=self._key(name),
            UploadId=upload,
            MultipartUpload={"Parts": parts},
        )

    def abort_older(self, than: float) -> int:
        """Abort uploads started before ``than``, seconds since the epoch; return how many."""
        old = [item for item in self._unfinished(self._key("")) if item["Initiated"].timestamp() < than]
        for item in old:
            self._call("abort_multipart_upload", Key=item["Key"], UploadId=item["UploadId"])
        return len(old)

    def _unfinished(self, prefix: str) -> list[Mapping[str, Any]]:
        uploads: list[Mapping[str, Any]] = []
        marker: Mapping[str, Any] = {}
        while True:
            page = self._call("list_multipart_uploads", Prefix=prefix, **marker)
            uploads += page.get("Uploads") or ()
            if not page.get("IsTruncated"):
                return uploads
            marker = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}

    def _key(self, name: str) -> str:
        key: str = self.files.split_path(self._path(name))[1]
        return key

    def _call(self, operation: str, **arguments: Any) -> Mapping[str, Any]:
        bucket = self.files.split_path(self.root)[0]
        response: Mapping[str, Any] = self.files.call_s3(operation, Bucket=bucket, **arguments)
        return response


PART = 16 << 20
"""Bytes per part, except the last; S3 requires at least 5 MiB."""

_MOST_PARTS = 10_000
"""Maximum number of parts of an upload (S3's limit): larger files have larger parts."""

_AT_ONCE = 4
_ATTEMPTS = 3
"""Number of uploads to try when another client ends the current one or removes its file."""


def upload(shared: SharedStore, name: str, source: Path, size: int) -> int:
    """Upload a file atomically.

    A part is skipped if its ETag is the MD5 of its content. This is not the case if the bucket encrypts with its own
    keys (S3 API, "Common response headers"); all parts are then sent again.

    Returns:
        Bytes that were sent, without parts already on the server; the full size if another client completed it.

    Raises:
        UnreachableError: MM821.
        OSError: ``source`` cannot be read.
    """
    for _ in range(_ATTEMPTS):
        try:
            return _attempt(shared, name, source, size)
        except (FileNotFoundError, UnreachableError) as error:
            # Another machine ended this upload, or the response to its completion was lost.
            if shared.calls.do(lambda: shared.place.size(name)) == size:
                return size
            if isinstance(error, UnreachableError):
                raise
    raise UnreachableError(
        f"uploading `{name}` failed: another client keeps aborting the upload",
        code="MM821",
    )


def _attempt(shared: SharedStore, name: str, source: Path, size: int) -> int:
    """Start or resume an upload and complete it; return the bytes that were sent."""
    place: Any = shared.place
    length = max(PART, -(-size // _MOST_PARTS))
    upload_id = shared.calls.do(lambda: place.upload(name))
    uploaded = {part.number: part for part in shared.calls.do(lambda: place.parts(name, upload_id))}
    etags, sent = _send(shared, name, upload_id, source, (size, length), uploaded)
    shared.calls.do(lambda: place.complete(name, upload_id, etags), size)
    return sent


def _send(
    shared: SharedStore,
    name: str,
    upload_id: str,
    source: Path,
    lengths: tuple[int, int],
    uploaded: dict[int, UploadPart],
) -> tuple[list[str], int]:
    """Send the missing parts; return the ETags of all parts and the bytes that were sent."""
    size, length = lengths
    place: Any = shared.place
    descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC)

    def send(number: int) -> tuple[str, int]:
        content = os.pread(descriptor, length, (number - 1) * length)
        digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
        existing = uploaded.get(number)
        if existing is not None and (existing.size, existing.etag) == (len(content), digest):
            return existing.etag, 0
        etag = shared.calls.do(lambda: place.put_part(name, upload_id, number, content), len(content))
        return etag, len(content)

    try:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            tasks = [pool.submit(send, number) for number in range(1, -(-size // length) + 1)]
            try:
                results = [task.result() for task in tasks]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    finally:
        os.close(descriptor)
    return [etag for etag, _ in results], sum(sent for _, sent in results)
