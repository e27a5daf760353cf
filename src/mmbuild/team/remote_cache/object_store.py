"""A place as the few operations that are asked of it, over any file system of fsspec.

Names are relative (``actions/ab/<key>.json``). Operations raise what the file system raises; nothing is retried here.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmbuild.base.files import FileRefusedError, open_regular
from mmbuild.base.optional_packages import install_hint
from mmbuild.config.remote_cache import Settings
from mmbuild.config.remote_warnings import RemoteError
from mmbuild.team.remote_cache.retrying_client import WINDOW_SECONDS, MalformedError, describe

LAYOUT = "v1"
_PIECE = 256 << 10
_REDIRECT = (301, 302, 303, 307, 308)
_REDIRECTS = 10
_OURS = ("Range", "Accept-Encoding")
"""Headers of a request that the configuration did not name."""

_PARTIAL, _BEHIND_THE_END = 206, 416
_DIGEST = re.compile(r"[0-9a-f]{64}")

EXCLUSIVE = frozenset({"file", "local", "memory", "s3", "s3a"})
"""Protocols whose file systems can create a file only where there is none: the first writer wins."""

READ_ONLY = frozenset({"http", "https"})

Arrived = Callable[[int], None]


def ignore_progress(count: int) -> None:
    """An :data:`Arrived` that does nothing."""


def blob(digest: str) -> str:
    return f"objects/{digest[:2]}/{digest}"


def manifest(digest: str) -> str:
    return f"manifests/{digest[:2]}/{digest}.json"


def action(key: str) -> str:
    return f"actions/{key[:2]}/{key}.json"


def used(digest: str) -> str:
    return f"used/{digest[:2]}/{digest}"


def is_digest(text: object) -> bool:
    """Whether ``text`` is 64 hexadecimal digits: it becomes a part of paths."""
    return isinstance(text, str) and _DIGEST.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class FileInfo:
    """A file of the place: bytes, and seconds since the epoch by the place's own clock."""

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
        """Whether results can be published there; see :func:`refusal` for why not."""
        return self.protocol in EXCLUSIVE

    @property
    def in_parts(self) -> bool:
        """Whether large files go there in parts (:class:`mmbuild.team.remote_cache.s3.S3Store`)."""
        return self.protocol in ("s3", "s3a")

    @property
    def streams(self) -> bool:
        """Whether :meth:`read` reports bytes while they come, not only at its end."""
        return False

    def read(self, name: str, start: int, end: int, arrived: Arrived = ignore_progress) -> bytes:
        """Bytes ``start`` to ``end`` of a file; fewer where it ends before.

        Args:
            name: The file.
            start: First byte.
            end: Byte after the last one.
            arrived: Called with numbers of bytes that came.

        Raises:
            FileNotFoundError: There is none.
            MalformedError: It is something else than a file.
        """
        try:
            data: bytes = self.files.cat_file(self._path(name), start=start, end=end)
        except (IsADirectoryError, NotADirectoryError) as error:
            raise MalformedError("is not a file") from error
        arrived(len(data))
        if len(data) > end - start:
            return data[start:end]  # a server that knows no ranges sends all of it
        return data

    def size(self, name: str) -> int | None:
        """Bytes of a file, None where there is none."""
        try:
            return int(self.files.info(self._path(name))["size"])
        except FileNotFoundError:
            return None

    def changed(self, name: str) -> float:
        """When a file was last written, by the place's clock."""
        return _when(self.files.info(self._path(name)))

    def write(self, name: str, content: bytes) -> None:
        """Write a whole file, over another one or not."""
        self.files.pipe_file(self._path(name), content)

    def put(self, name: str, source: Path) -> None:
        """Write a whole file from one of this machine."""
        self.files.put_file(str(source), self._path(name))

    def create(self, name: str, content: bytes) -> None:
        """Write a whole file where there is none.

        Raises:
            FileExistsError: There is one.
        """
        self.files.pipe_file(self._path(name), content, mode="create")

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self.files.rm_file(self._path(name))

    def walk(self, below: str) -> dict[str, FileInfo]:
        """All files below the directory ``below``, by name."""
        base = self._path(below)
        try:
            found: Mapping[str, Any] = self.files.find(base, detail=True)
        except FileNotFoundError:
            return {}
        return {
            name[len(self.root) + 1 :]: FileInfo(int(info["size"]), _when(info))
            for name, info in found.items()
            if info["type"] == "file" and "/.tmp-" not in name
        }

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}"


class Directory(ObjectStore):
    """A directory of this machine or of a mounted disk: files appear whole, and as writable as the directory is."""

    @property
    def streams(self) -> bool:
        """Yes."""
        return True

    def read(self, name: str, start: int, end: int, arrived: Arrived = ignore_progress) -> bytes:
        """As :meth:`ObjectStore.read`; whoever may write there must not make this machine read other files or
        devices."""
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
            except OSError:  # no hard links here: exclusive still, and for a moment not whole
                with open(self._path(name), "xb") as stream:
                    stream.write(content)

    @contextlib.contextmanager
    def _fresh(self, name: str) -> Iterator[str]:
        """A name beside the file, gone afterwards."""
        parent = os.path.dirname(self._path(name))
        self._make(parent)
        fresh = f"{parent}/.tmp-{secrets.token_hex(8)}"
        try:
            yield fresh
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(fresh)

    def _make(self, directory: str) -> None:
        """Make directories below the root with the rights of what they are in, whatever the umask: a place for a
        group stays one. What the root itself lies in must be there: a disk that is not mounted is not made."""
        if os.path.isdir(directory):
            return
        parent = os.path.dirname(directory)
        if directory != os.path.dirname(self.root):
            self._make(parent)
        with contextlib.suppress(FileExistsError):
            os.mkdir(directory)
            with contextlib.suppress(PermissionError):
                os.chmod(directory, os.stat(parent).st_mode & 0o7777)


class Web(ObjectStore):
    """A directory behind a web server. No more is read than was asked for, whatever the server sends."""

    @property
    def streams(self) -> bool:
        """Yes."""
        return True

    def read(self, name: str, start: int, end: int, arrived: Arrived = ignore_progress) -> bytes:
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
        own = {**options, "headers": headers}
        async with await _followed(session, self.files.encode_url(url), own) as response:
            if response.status == _BEHIND_THE_END:
                return b""
            self.files._raise_not_found_for_status(response, url)
            before = (
                0 if response.status == _PARTIAL else start
            )  # a server that knows no ranges sends all of it
            data = bytearray()
            while len(data) < end - start and (part := await response.content.read(_PIECE)):
                arrived(len(part))
                data += part
                if before:  # not kept
                    cut = min(before, len(data))
                    del data[:cut]
                    before -= cut
            return bytes(data[: end - start])


async def _followed(session: Any, address: Any, options: Mapping[str, Any]) -> Any:
    """The response for ``address`` after its redirects. Headers and passwords that the configuration names go to the
    place's own host alone, and what was asked for over https is not read over http.

    Raises:
        MalformedError: A redirect leads somewhere else than to http or https, or from https to http, or there are
            too many.
    """
    from yarl import URL

    target = start = URL(address) if isinstance(address, str) else address
    for _ in range(_REDIRECTS):
        response = await session.get(target, allow_redirects=False, **options)
        place = response.headers.get("Location")
        if response.status not in _REDIRECT or not place:
            return response
        response.release()
        try:
            target = target.join(URL(place))
        except ValueError:
            raise MalformedError("is redirected to no usable address") from None
        if target.scheme not in READ_ONLY or not target.host:
            raise MalformedError(f"is redirected to `{target.scheme}:`, which is not read")
        if (start.scheme, target.scheme) == ("https", "http"):
            raise MalformedError("is redirected from https to http, where anyone could exchange it")
        if target.origin() != start.origin():
            kept = {name: options["headers"][name] for name in _OURS}
            options = {"headers": kept, "timeout": options["timeout"]}
    raise MalformedError(f"is redirected more than {_REDIRECTS} times")


def connect(settings: Settings) -> ObjectStore:
    """The place that ``settings`` name. Mostly nothing is asked of it yet.

    Raises:
        RemoteError: MM820, fsspec is not installed or does not know the URL.
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
            "retries": {
                "max_attempts": 0
            },  # requests are retried by mmbuild.team.remote_cache.retrying_client
        }
        options = {**options, "config_kwargs": {**limits, **options.get("config_kwargs", {})}}
    try:
        files, path = url_to_fs(settings.url, use_listings_cache=False, skip_instance_cache=True, **options)
    except Exception as error:
        raise RemoteError(
            f"the shared store `{settings.shown}` cannot be used: {settings.redact(describe(error))}",
            code="MM820",
            hint="look at the URL and at store.options in the configuration; "
            f"{install_hint('remote')} brings what file, http and s3 need",
        ) from error
    if hasattr(files, "retries"):
        files.retries = 1  # s3fs's own
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
    """Why nothing can be published at a place of this protocol."""
    if protocol in READ_ONLY:
        return f"{protocol}:// is read-only"
    return f"of {protocol}:// it is not known that it can create a file only where there is none"


def _when(info: Mapping[str, Any]) -> float:
    for name in ("mtime", "LastModified", "modified", "last_modified", "created"):
        value = info.get(name)
        if isinstance(value, (int, float)):
            return float(value)
        if isinstance(value, datetime.datetime):
            return value.timestamp()
    return 0.0
