"""Digests of large files that were hashed before, so that an engine of many gigabytes is hashed once.

A file counts as the same while its device, inode, size and both times are. The digests are in one file of the user's
cache directory, with a checksum; one that is damaged or cannot be written costs another hash, and no error.
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
"""Files that are remembered, the last ones."""

_SETTLED_NS = 2_000_000_000
"""A file that changed less than this ago could change again within one tick of its file system's clock."""

_FORM = record({"checksum": digest, "files": mapping_of(digest, _MOST, key=text(120))})


class DigestCache:
    """The digests of this user. Reads the file when it is first asked."""

    def __init__(self, path: Path | None = None) -> None:
        """``path``: the file; None means ``hashed.json`` in the user's cache directory."""
        self._path = path
        self._files: dict[str, str] | None = None
        self._fresh: dict[str, str] = {}

    def digest(self, found: os.stat_result) -> str | None:
        """BLAKE3, hex, of a file that was hashed before."""
        if self._files is None:
            self._files = _read(self._place())
        return self._files.get(_key(found))

    def add(self, before: os.stat_result, after: os.stat_result, digest: str) -> None:
        """Remember a digest, unless the file changed while it was hashed, or just before."""
        settled = time.time_ns() - max(after.st_ctime_ns, after.st_mtime_ns) > _SETTLED_NS
        if _key(before) == _key(after) and settled:
            self._fresh[_key(after)] = digest

    def save(self) -> None:
        """Write what was added, next to what others have written meanwhile."""
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


def _key(found: os.stat_result) -> str:
    return f"{found.st_dev}:{found.st_ino}:{found.st_size}:{found.st_mtime_ns}:{found.st_ctime_ns}"


def _read(path: Path | None) -> dict[str, str]:
    """What the file holds; nothing where it is missing, damaged or somebody else's."""
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
