"""Reads the small JSON and text files of a model directory, and reports damaged ones by name."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmbuild.errors import MmbuildError

MAX_BYTES = 64_000_000
"""No tokenizer.json comes near this size."""
LFS_POINTER = b"version https://git-lfs"


class SmallFileError(MmbuildError):
    """A tokenizer, processor or template file that cannot be read (MM731)."""


def read_text(path: Path) -> str:
    """The UTF-8 text of ``path``.

    Raises:
        SmallFileError: MM731, the file cannot be opened, is a git-LFS pointer, too large, or not UTF-8.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise _damaged(path, f"cannot be read: {error.strerror or error}") from None
    if data.startswith(LFS_POINTER):
        raise _damaged(
            path, "is a git-LFS pointer, not the file itself", "run `git lfs pull` in the model's repository"
        )
    if len(data) > MAX_BYTES:
        raise _damaged(path, f"is larger than {MAX_BYTES // 1_000_000} MB")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _damaged(path, f"is not UTF-8 text: {error.reason} at byte {error.start}") from None


def read_json(path: Path) -> Mapping[str, Any]:
    """The JSON object in ``path``.

    Raises:
        SmallFileError: MM731, the file cannot be read or does not hold a JSON object.
    """
    text = read_text(path)
    if not text.strip():
        raise _damaged(path, "is empty")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise _damaged(path, f"holds a JSON {_KINDS[type(content)]} instead of an object")
    return content


_KINDS = {list: "array", str: "string", int: "number", float: "number", bool: "boolean", type(None): "null"}


def shown(path: Path) -> str:
    """``path`` as messages print it: relative to the current directory where it is below it."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def _damaged(path: Path, problem: str, hint: str = "download the file again") -> SmallFileError:
    return SmallFileError(f"`{shown(path)}` {problem}", code="MM731", hint=hint)
