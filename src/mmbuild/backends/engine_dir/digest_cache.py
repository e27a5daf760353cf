"""Cache of the digests of large files, so that an engine of many gigabytes is hashed only once.

A file counts as unchanged while its device, inode, size and both times are the same. The cache is a file with a
checksum in the user's cache directory. If it is damaged or cannot be written, files are hashed again; it is never an
error.
"""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from mmbuild.base.canonical_json import canonical_json, hash_json
from mmbuild.base.field_checks import digest, mapping_of, record, text
from mmbuild.base.files import FileRefusedError, read_object
from mmbuild.base.limits import HASHED_FILES

_MOST = 4_096
"""Maximum number of cached files; the oldest are dropped."""

_SETTLED_NS = 2_000_000_000
"""A file that changed more recently could change again within one tick of its file system's clock."""

_FORM = record({"checksum": digest, "files": mapping_of(digest, _MOST, key=text(120))})


class DigestCache:
    """The digest cache of this user. Reads its file on first use."""

    def __init__(self, path: Path | None = None) -> None:
        """``path``: the cache file; default: ``hashed.json`` in the user's cache directory."""
        self._path = path
        self._files: dict[str, str] | None = None
        self._fresh: dict[str, str] = {}

    def digest(self, status: os.stat_result) -> str | None:
        """BLAKE3, hex, of a file; None if it is not cached."""
        if self._files is None:
            self._files = _read(self._place())
        return self._files.get(_key(status))

    def add(self, before: os.stat_result, after: os.stat_result, digest: str) -> None:
        """Cache a digest, unless the file changed during hashing or just before."""
        settled = time.time_ns() - max(after.st_ctime_ns, after.st_mtime_ns) > _SETTLED_NS
        if _key(before) == _key(after) and settled:
            self._fresh[_key(after)] = digest

    def save(self) -> None:
        """Write the added digests, merged with those that other processes have written meanwhile."""
        place = self._place()
        if not self._fresh or place is None:
            return
        files = {**_read(place), **self._fresh}
        files = dict(list(files.items())[-_MOST:])
        with suppress(OSError):
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor, fresh = tempfile.mkstemp(prefix=".hashed-", dir=place.parent)
            try:
                with open(descriptor, "wb") as stream:
                    stream.write(canonical_json({"checksum": hash_json(files), "files": files}))
                os.replace(fresh, place)
            except OSError:
                os.unlink(fresh)
                raise

    def _place(self) -> Path | None:
        if self._path is None:
            with suppress(RuntimeError):  # no home directory
                root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
                self._path = Path(root) / "mmbuild" / "hashed.json"
        return self._path


def _key(status: os.stat_result) -> str:
    return f"{status.st_dev}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}"


def _read(path: Path | None) -> dict[str, str]:
    """The cached digests; empty if the file is missing, damaged or owned by another user."""
    if path is None:
        return {}
    try:
        if os.stat(path).st_uid != os.geteuid():
            return {}
        data = read_object(path, HASHED_FILES)
    except (OSError, FileRefusedError):
        return {}
    if _FORM(data, "") is not None or hash_json(data["files"]) != data["checksum"]:
        return {}
    return dict(data["files"])
