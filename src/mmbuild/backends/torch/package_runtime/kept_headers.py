"""Remembers the precompiled header of a command.

Inductor preprocesses each header in each process to find out whether it has changed. That takes g++ 2 s, and there
are two; most processes compile a few packages, which take 2 s each. A header of torch changes with torch, one of the
system with the compiler: packages are kept by the same (``package_cache``).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from blake3 import blake3
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from mmbuild.backends.torch.package_runtime.private_directory import private_directory
from mmbuild.base.files import FileRefusedError, read_file
from mmbuild.core.store.atomic_files import write_whole

_LONGEST = 4096
"""Bytes of a path."""


def remembered(precompile: Callable[..., str], surroundings: Callable[[], bytes]) -> Callable[..., str]:
    """``precompile``, which is called only for headers that were not precompiled in equal ``surroundings``.

    Args:
        precompile: Gives the path of a header, next to which is what g++ makes of it (``.gch``).
        surroundings: Digest of torch, the compiler and mmbuild's code.
    """

    def find(header: str, command: str, **options: Any) -> str:
        content = json.dumps([header, command, options], sort_keys=True, default=str)
        note = _note(blake3(content.encode() + surroundings()).hexdigest())
        if note and (known := _read(note)):
            return known
        path = precompile(header, command, **options)
        if note and _is_complete(path):
            with suppress(OSError):
                write_whole(note, path.encode())
        return path

    return find


def _note(name: str) -> Path | None:
    """The file of a header's path, in a directory next to the headers; None if another user could write to it."""
    directory = private_directory(Path(default_cache_dir()) / "mmbuild-headers")
    return directory and directory / name


def _read(note: Path) -> str | None:
    """The path in a note, if the header is still there."""
    try:
        path = read_file(note, _LONGEST).decode("utf-8", "replace")
    except (OSError, FileRefusedError):
        return None
    return path if _is_complete(path) else None


def _is_complete(path: str) -> bool:
    return Path(path).is_file() and Path(f"{path}.gch").is_file()
