"""Minimal object-store operations on top of any fsspec file system.

Names are relative (``actions/ab/<key>.json``). File system exceptions are passed on; nothing is retried here.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmbuild.base.files import FileRefusedError, open_regular
from mmbuild.base.optional_packages import install_hint
from mmbuild.config.remote_errors import RemoteError
from mmbuild.config.shared_store_settings import Settings
from mmbuild.team.remote_cache.retrying_client import WINDOW_SECONDS, MalformedError, describe

LAYOUT = "v1"
_PIECE = 256 << 10
_REDIRECT = (301, 302, 303, 307, 308)
_REDIRECTS = 10
_OURS = ("Range", "Accept-Encoding")
"""Request headers set by mmbuild, not by the configuration."""

_PARTIAL, _RANGE_NOT_SATISFIABLE = 206, 416

EXCLUSIVE = frozenset({"file", "local", "memory", "s3", "s3a"})
"""Protocols that support exclusive creation of a file: the first writer wins."""

READ_ONLY = frozenset({"http", "https"})

Arrived = Callable[[int], None]


def _ignore_progress(count: int) -> None:
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

    @property
    def writable(self) -> bool:
        """Whether results can be published there; :func:`refusal` says why not."""
        return self.protocol in EXCLUSIVE

    @property
    def in_parts(self) -> bool:
        """Whether large files are uploaded in parts (:class:`mmbuild.team.remote_cache.s3.S3Store`)."""
        return self.protocol in ("s3", "s3a")

    @property
    def streams(self) -> bool:
        """Whether :meth:`read` reports bytes as they arrive, not only at its end."""
        return False

    def read(self, name: str, start: int, end: int, arrived: Arrived = _ignore_progress) -> bytes:
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


class Directory(ObjectStore):
    """A local directory or mounted disk: files appear atomically, with the permissions of the directory."""

    @property
    def streams(self) -> bool:
        """Always True."""
        return True

    def read(self, name: str, start: int, end: int, arrived: Arrived = _ignore_progress) -> bytes:
        """As :meth:`ObjectStore.read`, but refuse links and devices: others who can write there could otherwise make
        this machine read other files."""
        path = self._path(name)
        if os.path.islink(path):
            raise MalformedError("is a link")
        try:
            descriptor = open_regular(path)
        except FileRefusedError as error:
            raise MalformedError(error.problem) from None
        except NotADirectoryError as error:
            raise MalformedError("is not a file") from error
        parts = []
        try:
            while start < end and (part := os.pread(descriptor, min(_PIECE, end - start), start)):
                parts.append(part)
                start += len(part)
                arrived(len(part))
        finally:
            os.close(descriptor)
        return b"".join(parts)

    def write(self, name: str, content: bytes) -> None:
        with self._fresh(name) as fresh:
            Path(fresh).write_bytes(content)
            os.replace(fresh, self._path(name))

    def put(self, name: str, source: Path) -> None:
        with self._fresh(name) as fresh:
            shutil.copyfile(source, fresh)
            os.replace(fresh, self._path(name))

    def create(self, name: str, content: bytes) -> None:
        with self._fresh(name) as fresh:
            Path(fresh).write_bytes(content)
            try:
                os.link(fresh, self._path(name))
            except FileExistsError:
                raise
            except OSError:  # no hard links here: still exclusive, but incomplete for a moment
                with open(self._path(name), "xb") as stream:
                    stream.write(content)

    @contextlib.contextmanager
    def _fresh(self, name: str) -> Iterator[str]:
        """Provide a temporary name next to the file, removed afterwards."""
        parent = os.path.dirname(self._path(name))
        self._make_directory(parent)
        fresh = f"{parent}/.tmp-{secrets.token_hex(8)}"
        try:
            yield fresh
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(fresh)

    def _make_directory(self, directory: str) -> None:
        """Create directories below the root with their parent's permissions, regardless of the umask.

        This keeps a group's store writable by the group. The root's parent must exist, so that nothing is created at
        the mount point of an unmounted disk.
        """
        if os.path.isdir(directory):
            return
        parent = os.path.dirname(directory)
        if directory != os.path.dirname(self.root):
            self._make_directory(parent)
        with contextlib.suppress(FileExistsError):
            os.mkdir(directory)
            with contextlib.suppress(PermissionError):
                os.chmod(directory, os.stat(parent).st_mode & 0o7777)


class Web(ObjectStore):
    """A directory on a web server. Reads no more than requested, whatever the server sends."""

    @property
    def streams(self) -> bool:
        """Always True."""
        return True

    def read(self, name: str, start: int, end: int, arrived: Arrived = _ignore_progress) -> bytes:
        """As :meth:`ObjectStore.read`."""
        from fsspec.asyn import sync

        data: bytes = sync(self.files.loop, self._get, self._path(name), start, end, arrived)
        return data

    async def _get(self, url: str, start: int, end: int, arrived: Arrived) -> bytes:
        from aiohttp import ClientTimeout

        if start >= end:
            return b""
        options = dict(self.files.kwargs)
        headers = {
            **options.pop("headers", {}),
            "Range": f"bytes={start}-{end - 1}",
            "Accept-Encoding": "identity",
        }
        options.setdefault("timeout", ClientTimeout(total=None, sock_read=WINDOW_SECONDS))
        session = await self.files.set_session()
        request_options = {**options, "headers": headers}
        async with await _get_following(session, self.files.encode_url(url), request_options) as response:
            if response.status == _RANGE_NOT_SATISFIABLE:
                return b""
            self.files._raise_not_found_for_status(response, url)
            # A server without range support sends the whole file.
            to_skip = 0 if response.status == _PARTIAL else start
            data = bytearray()
            while len(data) < end - start and (part := await response.content.read(_PIECE)):
                arrived(len(part))
                data += part
                if to_skip:
                    cut = min(to_skip, len(data))
                    del data[:cut]
                    to_skip -= cut
            return bytes(data[: end - start])


async def _get_following(session: Any, address: Any, options: Mapping[str, Any]) -> Any:
    """Return the response for ``address`` after its redirects.

    Configured headers and passwords are sent only to the original host, and an https request is never redirected to
    http.

    Raises:
        MalformedError: A redirect leads to a scheme other than http or https, or from https to http, or there are
            too many.
    """
    from yarl import URL

    target = start = URL(address) if isinstance(address, str) else address
    for _ in range(_REDIRECTS):
        response = await session.get(target, allow_redirects=False, **options)
        location = response.headers.get("Location")
        if response.status not in _REDIRECT or not location:
            return response
        response.release()
        try:
            target = target.join(URL(location))
        except ValueError:
            raise MalformedError("is redirected to an invalid address") from None
        if target.scheme not in READ_ONLY or not target.host:
            raise MalformedError(f"is redirected to `{target.scheme}:`, which is not supported")
        if (start.scheme, target.scheme) == ("https", "http"):
            raise MalformedError("is redirected from https to http, where anyone could replace it")
        if target.origin() != start.origin():
            kept = {name: options["headers"][name] for name in _OURS}
            options = {"headers": kept, "timeout": options["timeout"]}
    raise MalformedError(f"is redirected more than {_REDIRECTS} times")


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
    from mmbuild.team.remote_cache.s3 import S3Store

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
