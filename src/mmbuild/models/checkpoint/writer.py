"""Writes a safetensors file tensor by tensor.

Format: 8 bytes little-endian header length, a JSON header with dtype, shape and byte range of each tensor, then the
tensors without gaps (https://huggingface.co/docs/safetensors). The header is padded with spaces so that the data
start at a multiple of ``ALIGNMENT`` bytes. Tensors whose size is a multiple of it come first, so that they are
aligned too and can be used directly in the mapped file.
"""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

ALIGNMENT = 64
_CHUNK = 64 << 20

# torch's name, safetensors' name, bytes per element.
_DTYPES = {
    "float64": ("F64", 8),
    "float32": ("F32", 4),
    "float16": ("F16", 2),
    "bfloat16": ("BF16", 2),
    "int64": ("I64", 8),
    "int32": ("I32", 4),
    "int8": ("I8", 1),
    "uint8": ("U8", 1),
    "bool": ("BOOL", 1),
    "float8_e4m3fn": ("F8_E4M3", 1),
}


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """A tensor to write: its name, torch dtype by name (``float16``) and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes of its data."""
        return math.prod(self.shape) * _DTYPES[self.dtype][1]


def layout(entries: Iterable[TensorEntry]) -> list[TensorEntry]:
    """Sort entries in writing order: best alignment first, otherwise as given."""
    return sorted(entries, key=lambda entry: -math.gcd(entry.size, ALIGNMENT))


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A safetensors file that is being written; thread-safe.

    Attributes:
        descriptor: Descriptor of the open file.
        offsets: Start of each tensor, bytes from the start of the file.
    """

    descriptor: int
    offsets: Mapping[str, int]

    def put(self, name: str, part: Tensor, at: int = 0) -> int:
        """Write ``part`` at byte ``at`` of tensor ``name``; returns the number of bytes written."""
        return _write_all(self.descriptor, _bytes(part), self.offsets[name] + at)


@contextmanager
def create(
    path: Path, entries: Sequence[TensorEntry], metadata: Mapping[str, str] | None = None
) -> Iterator[OpenFile]:
    """Create a file to be filled inside the ``with`` block; it gets its name at the end, unless there is an error.

    Args:
        path: The file; replaced atomically when all is written.
        entries: Its tensors, in the order of :func:`layout`.
        metadata: ``__metadata__`` of the header.
    """
    partial = path.with_name(path.name + ".partial")
    header = _header(entries, metadata)
    sizes = itertools.accumulate((entry.size for entry in entries), initial=len(header))
    try:
        with partial.open("wb", buffering=0) as file:
            _write_all(file.fileno(), header, 0)
            yield OpenFile(file.fileno(), dict(zip((e.name for e in entries), sizes, strict=False)))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write(
    path: Path,
    entries: Sequence[TensorEntry],
    tensors: Iterator[tuple[str, Iterable[Tensor]]],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a file atomically, one tensor after the other.

    Args:
        path: The file; replaced atomically when all is written.
        entries: Its tensors, in the order of :func:`layout`.
        tensors: ``(name, parts)`` in the same order; the parts are concatenated.
        metadata: ``__metadata__`` of the header.

    Raises:
        ValueError: The tensors do not match the entries (a bug in mmbuild).
    """
    with create(path, entries, metadata) as file:
        for entry, (name, parts) in zip(entries, tensors, strict=True):
            written = 0
            for part in parts:
                written += file.put(entry.name, part, written)
            check_filled(entry, written, name)


def check_filled(entry: TensorEntry, written: int, name: str | None = None) -> None:
    """Check that a tensor matches its entry.

    Raises:
        ValueError: Its name or number of bytes differ (a bug in mmbuild).
    """
    if (name or entry.name, written) != (entry.name, entry.size):
        raise ValueError(f"{entry}: got {written} bytes of {name or entry.name}")


def _header(entries: Sequence[TensorEntry], metadata: Mapping[str, str] | None) -> bytes:
    content: dict[str, object] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    offset = 0
    for entry in entries:
        content[entry.name] = {
            "dtype": _DTYPES[entry.dtype][0],
            "shape": list(entry.shape),
            "data_offsets": [offset, offset + entry.size],
        }
        offset += entry.size
    text = json.dumps(content, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _bytes(tensor: Tensor) -> memoryview:
    import torch

    return memoryview(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy())


def _write_all(descriptor: int, data: bytes | memoryview, offset: int) -> int:
    view = memoryview(data)
    done = 0
    while done < len(view):
        done += os.pwrite(descriptor, view[done : done + _CHUNK], offset + done)
    return done
