"""A place behind S3, and what it can do beside the operations of any place: uploads that can be gone on with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmbuild.team.remote_cache.object_store import ObjectStore


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
