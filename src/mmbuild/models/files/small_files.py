"""Reads the small JSON and text files of a model directory, and reports damaged ones by name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmbuild.base.errors import MmbuildError
from mmbuild.base.files import FileRefusedError, read_file
from mmbuild.base.json_reader import JsonProblemError, parse_json
from mmbuild.base.limits import MODEL_JSON, SHARD_INDEX, TOKENIZER, Limit

LFS_POINTER = b"version https://git-lfs"
# Files that may be large; all others contain only settings.
_LIMITS = {"tokenizer.json": TOKENIZER, "vocab.json": TOKENIZER}
# SentencePiece models, vocabularies and merges.
_OTHERS = {".model": TOKENIZER, ".txt": TOKENIZER}
_INDEX = ".index.json"
_AGAIN = "download the file again"


class SmallFileError(MmbuildError):
    """A tokenizer, processor or template file cannot be read (MM731)."""


def read_small(path: Path) -> bytes:
    """Read the bytes of ``path``.

    Raises:
        SmallFileError: MM731, the file cannot be opened, is not a regular file, is a git-LFS pointer or too large.
    """
    try:
        data = read_file(path, _limit(path))
    except FileRefusedError as error:
        raise _damaged(path, error.problem, error.hint or _AGAIN) from None
    except OSError as error:
        raise _damaged(path, f"cannot be read: {error.strerror or error}") from None
    if data.startswith(LFS_POINTER):
        raise _damaged(
            path, "is a git-LFS pointer, not the file itself", "run `git lfs pull` in the model's repository"
        )
    return data


def read_text(path: Path) -> str:
    """Read the UTF-8 text of ``path``.

    Raises:
        SmallFileError: MM731, as :func:`read_small`, or the file is not UTF-8.
    """
    try:
        return read_small(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise _damaged(path, f"is not UTF-8 text: {error.reason} at byte {error.start}") from None


def read_json(path: Path) -> Mapping[str, Any]:
    """Read the JSON object in ``path``.

    Raises:
        SmallFileError: MM731, the file cannot be read or is not a JSON object.
    """
    try:
        content = parse_json(read_small(path), _limit(path))
    except JsonProblemError as error:
        raise _damaged(path, str(error)) from None
    if not isinstance(content, dict):
        raise _damaged(path, f"holds a JSON {_KINDS[type(content)]} instead of an object")
    return content


def _limit(path: Path) -> Limit:
    return (
        SHARD_INDEX
        if path.name.endswith(_INDEX)
        else _LIMITS.get(path.name, _OTHERS.get(path.suffix, MODEL_JSON))
    )


_KINDS = {list: "array", str: "string", int: "number", float: "number", bool: "boolean", type(None): "null"}


def display(path: Path) -> str:
    """``path`` for messages: relative to the current directory if it is below it."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def _damaged(path: Path, problem: str, hint: str = _AGAIN) -> SmallFileError:
    return SmallFileError(f"`{display(path)}` {problem}", code="MM731", hint=hint)
