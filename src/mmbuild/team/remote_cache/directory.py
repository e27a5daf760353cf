"""A shared store in a local directory or on a mounted disk."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from mmbuild.base.files import FileRefusedError, open_regular
from mmbuild.team.remote_cache.object_store import PIECE_BYTES, Arrived, ObjectStore, ignore_progress
from mmbuild.team.remote_cache.retrying_client import MalformedError


class Directory(ObjectStore):
    """Files appear atomically, with the permissions of the directory."""

    streams = True

    def read(self, name: str, start: int, end: int, arrived: Arrived = ignore_progress) -> bytes:
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
            while start < end and (part := os.pread(descriptor, min(PIECE_BYTES, end - start), start)):
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
