"""Cache of validated plans, so that an up-to-date apply does not read the recipe again.

An entry is named after everything known before reading (arguments, versions, host, environment) and contains the
stat of every file that was read. It is valid only while all of these are unchanged. Its first line is a checksum of
its name and the rest: otherwise a damaged digit, or an entry copied from another recipe, would build another
engine under the right key.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmbuild.base.files import FileRefusedError, read_file
from mmbuild.base.limits import STORE_NOTE
from mmbuild.core.store.atomic_files import discard, write_whole
from mmbuild.core.store.layout import Store
from mmbuild.core.store.stat_cache import file_stat, is_settled


def cache_name(facts: Mapping[str, Any]) -> str:
    """Return the name of the entry for ``facts`` (plain data)."""
    return _digest(json.dumps(facts, sort_keys=True).encode())


def read_entry(store: Store, name: str) -> Any | None:
    """Return the value of an entry if all its files are unchanged, else None."""
    try:
        checksum, _, text = read_file(_path(store, name), STORE_NOTE).partition(b"\n")
        if checksum != _checksum(name, text):
            return None
        # The checksum shows that mmbuild wrote it; checking limits would cost more than the rest of an idle apply.
        data = json.loads(text)
        for path, stat in data["files"].items():
            if [*file_stat(path)] != stat:
                return None
        return data["value"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    except FileRefusedError:
        return None


def write_entry(store: Store, name: str, files: Iterable[Path], value: Any) -> bool:
    """Save ``value``, unless one of ``files`` changed so recently that its times could hide another change.

    Returns:
        Whether the entry was written. Write errors are ignored.
    """
    try:
        stats = {os.path.abspath(path): file_stat(path) for path in files}  # noqa: PTH100 (keeps links)
        if not all(is_settled(stat) for stat in stats.values()):
            return False
        text = json.dumps({"files": stats, "value": value}, separators=(",", ":")).encode()
        write_whole(_path(store, name), _checksum(name, text) + b"\n" + text, owned=True)
    except OSError:
        return False
    return True


def forget_entry(store: Store, name: str) -> None:
    """Remove an invalid entry."""
    with suppress(OSError):
        discard(_path(store, name))


def _path(store: Store, name: str) -> Path:
    return store.root / "plans" / f"{name}.json"


def _checksum(name: str, text: bytes) -> bytes:
    """Return the checksum of an entry and its name: a copy under another name would be a plan of other recipes."""
    return _digest(f"{name}\n".encode() + text).encode()


def _digest(text: bytes) -> str:
    return hashlib.blake2b(text, digest_size=20).hexdigest()
