"""Plain files read without the libraries that write them: JSON, and what a safetensors file says of itself."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmbuild.products.errors import ProductError

_LENGTH = struct.Struct("<Q")
_LARGEST_HEADER = 100_000_000  # the limit of the safetensors library itself


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor in a file: its name for a number type (``F16``, ``I8``, ...) and its shape."""

    dtype: str
    shape: tuple[int, ...]


def read_json(path: Path) -> Mapping[str, Any]:
    """The object in ``path``.

    Raises:
        ProductError: MM652, it is not readable or holds no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unreadable(path, str(error)) from error
    if not isinstance(content, dict):
        raise _unreadable(path, "no JSON object")
    return content


def read_header(path: Path) -> Mapping[str, Stored]:
    """Tensors of a safetensors file by name; the data is not read, its size is compared.

    The form: 8 bytes of length (little-endian), a JSON object of that length, data
    (huggingface.co/docs/safetensors).

    Raises:
        ProductError: MM659, the header is not readable, or the file is shorter or longer than the header says.
    """
    try:
        with path.open("rb") as file:
            first = file.read(_LENGTH.size)
            if len(first) < _LENGTH.size:
                raise _broken(path, f"{len(first)} bytes are no header")
            (length,) = _LENGTH.unpack(first)
            if length > _LARGEST_HEADER:
                raise _broken(path, "its header cannot be that large")
            header: dict[str, Any] = json.loads(file.read(length))
        header.pop("__metadata__", None)
        end = max((item["data_offsets"][1] for item in header.values()), default=0)
        found = {name: Stored(item["dtype"], tuple(item["shape"])) for name, item in header.items()}
        size = path.stat().st_size
    except (OSError, ValueError, AttributeError, KeyError, TypeError, IndexError) as error:
        raise _broken(path, f"{type(error).__name__}: {error}") from error
    if size != _LENGTH.size + length + end:
        raise _broken(path, f"{size} bytes, and its header tells of {_LENGTH.size + length + end}")
    return found


def _unreadable(path: Path, what: str) -> ProductError:
    return ProductError(
        f"{path} cannot be read as the command's config.json: {what}",
        code="MM652",
        hint="Empty the directory and run the command again",
    )


def _broken(path: Path, what: str) -> ProductError:
    return ProductError(
        f"{path} is no whole safetensors file: {what}",
        code="MM659",
        hint="Look for free disk space and for `Killed` in the log, remove the file, and run the command again",
    )
