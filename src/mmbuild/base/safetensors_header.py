"""Reads and checks the header of a safetensors file without the library.

Format: 8 bytes of length (little-endian), a JSON object of that length, data
(https://huggingface.co/docs/safetensors). The library makes the same checks when it maps the file. Here they run
before any library opens the file, and an ambiguous header is refused.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from mmbuild.base.files import FileRefusedError, open_regular
from mmbuild.base.json_reader import JsonProblemError, parse_json
from mmbuild.base.limits import NAME, TENSOR_HEADER

_BITS = {
    **dict.fromkeys(("F4",), 4),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}
_LENGTH = 8
_METADATA = "__metadata__"
_KEYS = {"dtype", "shape", "data_offsets"}
_MOST_NUMBER = 1 << 63
_MOST_DIMENSIONS = 64
_MOST_NAME = 4 * NAME


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in a header.

    Attributes:
        dtype: Number format: ``F16``, ``I8``, ...
        shape: Its shape.
        offsets: Offset of the first byte and after the last byte, from the end of the header.
    """

    dtype: str
    shape: tuple[int, ...]
    offsets: tuple[int, int]


class HeaderProblemError(ValueError):
    """The problem with a header, as a sentence without a full stop."""


def read_tensor_header(path: Path | str) -> dict[str, StoredTensor]:
    """Return the tensors of a safetensors file by name, in header order.

    Raises:
        FileRefusedError: MM745, it is not a regular file.
        HeaderProblemError: The file is truncated, or its header is invalid.
        OSError: It cannot be read.
    """
    descriptor = open_regular(path)
    try:
        size = os.fstat(descriptor).st_size
        length = int.from_bytes(os.read(descriptor, _LENGTH), "little")
        if size < _LENGTH or not 2 <= length <= min(TENSOR_HEADER.size, size - _LENGTH):
            raise HeaderProblemError(f"its header would take {length} bytes and the file has {size}")
        text = _exactly(descriptor, length)
    finally:
        os.close(descriptor)
    tensors = parse_tensor_header(text)
    stated = _LENGTH + length + max((tensor.offsets[1] for tensor in tensors.values()), default=0)
    if stated != size:
        raise HeaderProblemError(f"its header describes {stated} bytes and the file has {size}")
    return tensors


def parse_tensor_header(text: bytes) -> dict[str, StoredTensor]:
    """Parse the JSON text of a header into tensors by name; their data must be contiguous.

    Raises:
        HeaderProblemError: The header is invalid.
    """
    try:
        header = parse_json(text, TENSOR_HEADER, unique_names=True)
    except JsonProblemError as error:
        raise HeaderProblemError(f"its header {error}") from None
    if not isinstance(header, dict):
        raise HeaderProblemError("its header is not a JSON object")
    _check_metadata(header.pop(_METADATA, {}))
    tensors = {name: _tensor(name, entry) for name, entry in header.items()}
    _check_places(tensors)
    return tensors


def require_header(path: Path | str) -> None:
    """Check the header before the file is opened with the library; see :func:`read_tensor_header`.

    Raises:
        HeaderProblemError: Also where the path is not a regular file.
        OSError: It cannot be read.
    """
    try:
        read_tensor_header(path)
    except FileRefusedError as error:
        raise HeaderProblemError(error.problem) from None


def _exactly(descriptor: int, length: int) -> bytes:
    parts, left = [], length
    while left > 0 and (part := os.read(descriptor, left)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _check_metadata(metadata: Any) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise HeaderProblemError(f"`{_METADATA}` of its header is not a mapping of texts")


def _tensor(name: str, entry: Any) -> StoredTensor:
    shown = name if len(name) <= 80 else f"{name[:76]} ..."
    if len(name) > _MOST_NAME or "\0" in name:
        raise HeaderProblemError(f"its header names a tensor `{shown}`, which is not a usable name")
    if not isinstance(entry, dict) or set(entry) != _KEYS:
        raise HeaderProblemError(f"its header gives `{shown}` no dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise HeaderProblemError(f"its header gives `{shown}` an unknown number format")
    if not _are_sizes(shape) or len(shape) > _MOST_DIMENSIONS:
        raise HeaderProblemError(f"its header gives `{shown}` no usable shape")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise HeaderProblemError(f"its header gives `{shown}` no usable data_offsets")
    bits = _BITS[dtype] * prod(shape)
    if bits % 8 or bits // 8 != offsets[1] - offsets[0]:
        raise HeaderProblemError(
            f"its header gives `{shown}` {offsets[1] - offsets[0]} bytes, and {dtype} {shape} takes {bits // 8}"
        )
    return StoredTensor(dtype, tuple(shape), (offsets[0], offsets[1]))


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < _MOST_NUMBER for item in value)


def _check_places(tensors: Mapping[str, StoredTensor]) -> None:
    """Require that each tensor begins where the previous one ends: no overlaps and no hidden data."""
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1].offsets):
        if tensor.offsets[0] != end:
            raise HeaderProblemError(
                f"the bytes of `{name[:80]}` begin at {tensor.offsets[0]}, and those before end at {end}"
            )
        end = tensor.offsets[1]
