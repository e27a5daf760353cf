"""Minimal object-store operations on top of any fsspec file system.

Names are relative (``actions/ab/<key>.json``). File system exceptions are passed on; nothing is retried here.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from mmbuild.base.optional_packages import install_hint
from mmbuild.config.remote_errors import RemoteError
from mmbuild.config.shared_store_settings import Settings
from mmbuild.team.remote_cache.retrying_client import MalformedError, describe

LAYOUT = "v1"
PIECE_BYTES = 256 << 10
"""Size of the pieces whose arrival is reported."""

EXCLUSIVE = frozenset({"file", "local", "memory", "s3", "s3a"})
"""Protocols that support exclusive creation of a file: the first writer wins."""

READ_ONLY = frozenset({"http", "https"})

Arrived = Callable[[int], None]


def ignore_progress(count: int) -> None:
    """:data:`Arrived` callback that does nothing."""


def blob(digest: str) -> str:
    return f"objects/{digest[:2]}/{digest}"


def manifest(digest: str) -> str:
    return f"manifests/{digest[:2]}/{digest}.json"


def action(key: str) -> str:
    return f"actions/{key[:2]}/{key}.json"


def used(digest: str) -> str:
    return f"used/{digest[:2]}/{digest}"


@dataclass(frozen=True, slots=True)
class FileInfo:
    """A stored file: size in bytes, and modification time in seconds since the epoch by the server's clock."""

    size: int
    changed: float


@dataclass(frozen=True, slots=True)
class ObjectStore:
    """The directory ``root`` of the fsspec file system ``files``."""

    files: Any
    root: str
    protocol: str
    streams: ClassVar[bool] = False
    """Whether :meth:`read` reports bytes as they arrive, not only at its end."""
    in_parts: ClassVar[bool] = False
    """Whether large files are uploaded in parts (:class:`mmbuild.team.remote_cache.s3.S3Store`)."""

    @property
    def writable(self) -> bool:
        """Whether results can be published there; :func:`refusal` says why not."""
        return self.protocol in EXCLUSIVE

    def read(self, name: str, start: int, end: int, arrived: Arrived = ignore_progress) -> bytes:
        """Read bytes ``start`` to ``end`` of a file; fewer if it ends before.

        Args:
            name: The file.
            start: First byte.
            end: Byte after the last one.
            arrived: Called with the number of bytes that arrived.

        Raises:
            FileNotFoundError: The file does not exist.
            MalformedError: It is not a file.
        """
        try:
            data: bytes = self.files.cat_file(self._path(name), start=start, end=end)
        except (IsADirectoryError, NotADirectoryError) as error:
            raise MalformedError("is not a file") from error
        arrived(len(data))
        if len(data) > end - start:
            return data[start:end]  # a server without range support sends the whole file
        return data

    def size(self, name: str) -> int | None:
        """Return the size of a file in bytes, or None if it does not exist."""
        try:
            return int(self.files.info(self._path(name))["size"])
        except FileNotFoundError:
            return None

    def changed(self, name: str) -> float:
        """Return when a file was last written, seconds since the epoch by the server's clock."""
        return _when(self.files.info(self._path(name)))

    def write(self, name: str, content: bytes) -> None:
        """Write a file, replacing an existing one."""
        self.files.pipe_file(self._path(name), content)

    def put(self, name: str, source: Path) -> None:
        """Upload a local file."""
        self.files.put_file(str(source), self._path(name))

    def create(self, name: str, content: bytes) -> None:
        """Write a file that does not exist yet.

        Raises:
            FileExistsError: The file exists.
        """
        self.files.pipe_file(self._path(name), content, mode="create")

    def remove(self, name: str) -> None:
        """Remove a file if it exists."""
        with contextlib.suppress(FileNotFoundError):
            self.files.rm_file(self._path(name))

    def walk(self, below: str) -> dict[str, FileInfo]:
        """Return all files below the directory ``below``, by name."""
        base = self._path(below)
        try:
            files: Mapping[str, Any] = self.files.find(base, detail=True)
        except FileNotFoundError:
            return {}
        return {
            name[len(self.root) + 1 :]: FileInfo(int(info["size"]), _when(info))
            for name, info in files.items()
            if info["type"] == "file" and "/.tmp-" not in name
        }

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}"


def connect(settings: Settings) -> ObjectStore:
    """Return the store that ``settings`` name, in most cases without sending a request.

    Raises:
        RemoteError: MM820, fsspec is not installed or does not support the URL.
    """
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise RemoteError(
            "a shared store needs the package `fsspec`, which is not installed",
            code="MM820",
            hint=install_hint("remote"),
        ) from error
    protocol = settings.url.partition("://")[0].lower()
    options = dict(settings.options)
    if protocol in ("s3", "s3a"):
        limits = {
            "connect_timeout": settings.timeout,
            "read_timeout": max(settings.timeout, 30.0),
            # Requests are retried by mmbuild.team.remote_cache.retrying_client.
            "retries": {"max_attempts": 0},
        }
        options = {**options, "config_kwargs": {**limits, **options.get("config_kwargs", {})}}
    try:
        files, path = url_to_fs(settings.url, use_listings_cache=False, skip_instance_cache=True, **options)
    except Exception as error:
        raise RemoteError(
            f"the shared store `{settings.shown}` cannot be used: {settings.redact(describe(error))}",
            code="MM820",
            hint="check the URL and store.options in the configuration; "
            f"{install_hint('remote')} installs support for file, http and s3",
        ) from error
    if hasattr(files, "retries"):
        files.retries = 1  # disable s3fs's own retries
    from mmbuild.team.remote_cache.directory import Directory
    from mmbuild.team.remote_cache.s3 import S3Store
    from mmbuild.team.remote_cache.web import Web

    kinds: Mapping[str, type[ObjectStore]] = {
        "file": Directory,
        "local": Directory,
        "http": Web,
        "https": Web,
        "s3": S3Store,
        "s3a": S3Store,
    }
    return kinds.get(protocol, ObjectStore)(files, f"{path.rstrip('/')}/{LAYOUT}", protocol)


def refusal(protocol: str) -> str:
    """Return why results cannot be published with this protocol."""
    if protocol in READ_ONLY:
        return f"{protocol}:// is read-only"
    return f"{protocol}:// is not known to support exclusive creation of files"


def _when(info: Mapping[str, Any]) -> float:
    for name in ("mtime", "LastModified", "modified", "last_modified", "created"):
        value = info.get(name)
        if isinstance(value, (int, float)):
            return float(value)
        if isinstance(value, datetime.datetime):
            return value.timestamp()
    return 0.0
