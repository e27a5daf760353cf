"""What was not in the shared store a moment ago, so that plan and apply in a row do not ask twice."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from mmbuild.base.files import FileRefusedError, read_object
from mmbuild.base.limits import STORE_NOTE
from mmbuild.store.files import write_whole
from mmbuild.store.layout import Store

SECONDS = 30.0
"""For how long. Whoever knows better (`cache pull`) asks again."""


def recent(store: Store, url: str, now: float | None = None) -> set[str]:
    """Action keys that were not at ``url`` within the last :data:`SECONDS`; a time to come counts for nothing."""
    return set(_read(_path(store, url), time.time() if now is None else now))


def remember(store: Store, url: str, keys: Iterable[str], now: float | None = None) -> None:
    """Note what was not there. A file that cannot be written is no failure."""
    moment = time.time() if now is None else now
    path = _path(store, url)
    with suppress(OSError):
        path.parent.mkdir(exist_ok=True)
        write_whole(path, json.dumps({**_read(path, moment), **dict.fromkeys(keys, moment)}).encode())


def _read(path: Path, now: float) -> dict[str, float]:
    try:
        data = read_object(path, STORE_NOTE)
    except (OSError, FileRefusedError):
        return {}
    return {key: at for key, at in data.items() if type(at) in (int, float) and 0 <= now - at < SECONDS}


def _path(store: Store, url: str) -> Path:
    name = hashlib.blake2b(url.encode(), digest_size=12).hexdigest()
    return store.root / "remote" / f"misses-{name}.json"
