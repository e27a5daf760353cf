"""Validated plans under everything that made them, so that an up-to-date apply reads no recipe again.

An entry is found by what is known before reading (arguments, versions, host, environment) and holds the
stat of every file that was read. It counts only while all of these are as they were.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mmbuild.store.files import write_whole
from mmbuild.store.layout import Store
from mmbuild.store.statindex import file_stat, settled


def cache_name(facts: Mapping[str, Any]) -> str:
    """The name of the entry that was made under ``facts`` (plain data)."""
    return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=20).hexdigest()


def read_entry(store: Store, name: str) -> Any | None:
    """The value of an entry whose files are all unchanged, else None."""
    try:
        with open(f"{store.root}/plans/{name}.json", "rb") as stream:
            data = json.load(stream)
        for path, stat in data["files"].items():
            if list(file_stat(path)) != stat:
                return None
        return data["value"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def write_entry(store: Store, name: str, files: Iterable[Path], value: Any) -> bool:
    """Remember ``value``; not while one of ``files`` changed so recently that its times could hide a change.

    Returns:
        Whether it was written. A cache that cannot be written is no failure.
    """
    try:
        stats = {os.path.abspath(path): file_stat(path) for path in files}  # noqa: PTH100 (keeps links)
        if not all(settled(stat) for stat in stats.values()):
            return False
        content = json.dumps({"files": stats, "value": value}, separators=(",", ":"))
        write_whole(store.root / "plans" / f"{name}.json", content.encode())
    except OSError:
        return False
    return True
