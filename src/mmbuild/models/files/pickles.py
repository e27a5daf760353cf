"""Compares a pickle of weights with safetensors files next to it, without unpickling.

A pickle of torch since 1.6 is a zip archive that stores the bytes of each tensor as one record, uncompressed. Sizes
of records show whether a tensor of some shape is in it; the first bytes of a layer's tensors show whether it is the
same model.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

from mmbuild.base.files import require_regular
from mmbuild.base.limits import MB
from mmbuild.models.errors import ModelFilesError
from mmbuild.models.files.small_files import display

Header = Mapping[str, Any]
_Record = tuple[Path, int, int]  # file, bytes, offset
_WIDTHS = (2, 4, 8)  # bytes of an element: weights may be stored in another number format
_COMPARED = 4096  # bytes of a tensor
_MOST_WORDS = 64 * MB  # of a pickle without its tensors: 100 bytes a tensor
# What a pickle calls the number formats of safetensors.
_STORAGES = {"F16": b"HalfStorage", "BF16": b"BFloat16Storage", "F32": b"FloatStorage"}
_LOCAL = struct.Struct("<26xHH")  # of a record's header: lengths of its name and of its extra field


def require_same_model(
    directory: Path,
    embedding: str,
    layer: Sequence[str],
    headers: Mapping[str, Header],
    pickles: Sequence[str],
) -> None:
    """Refuse pickles that hold another model than the safetensors files next to them.

    Args:
        directory: Where the files are.
        embedding: Full name of the embedding.
        layer: Full names of a layer's tensors, which every form of a model holds.
        headers: Header of each safetensors file, by name.
        pickles: Names of the pickles; forms of before torch 1.6 are not looked at.

    Raises:
        ModelFilesError: MM732, shapes or values differ.
    """
    records = [record for name in pickles for record in _records(directory / name)]
    held = {tensor: (name, entry) for name, header in headers.items() for tensor, entry in header.items()}
    if not records or embedding not in held:
        return
    holder, entry = held[embedding]
    largest = prod(entry["shape"]) * max(_WIDTHS)
    if any(size > largest for _, size, _ in records):
        return  # several tensors share a record: what is in it cannot be told apart
    if not {size for _, size, _ in records} & {prod(entry["shape"]) * width for width in _WIDTHS}:
        shape = " x ".join(map(str, entry["shape"]))
        raise _another(directory, f"the embedding `{embedding}` is {shape} in `{holder}`", pickles[0])
    formats = {_STORAGES.get(held[tensor][1].get("dtype")) for tensor in layer if tensor in held}
    if not all(_mentions(directory / name, formats) for name in pickles):
        return
    for tensor in layer:
        if tensor in held and _differs(directory, *held[tensor], records):
            raise _another(directory, f"`{tensor}` has other values in `{held[tensor][0]}`", pickles[0])


def _differs(directory: Path, name: str, entry: Mapping[str, Any], records: list[_Record]) -> bool:
    """Whether records have the size of a tensor and none of them begins like it."""
    first, last = entry["data_offsets"]
    with (directory / name).open("rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        file.seek(start + first)
        data = file.read(min(last - first, _COMPARED))
    alike = [record for record in records if record[1] == last - first]
    return bool(alike) and not any(_bytes(path, len(data), offset) == data for path, _, offset in alike)


def _another(directory: Path, what: str, pickle: str) -> ModelFilesError:
    return ModelFilesError(
        f"`{display(directory)}` holds two sets of weights: {what}, and no tensor of `{pickle}` is like it",
        code="MM732",
        hint="remove the set that is not the model; safetensors files are the ones that are taken",
    )


def _records(path: Path) -> Iterator[_Record]:
    """File, size and offset of each tensor's bytes."""
    try:
        require_regular(path)
        with zipfile.ZipFile(path) as archive:
            found = [item for item in archive.infolist() if "/data/" in item.filename]
    # A damaged directory of an archive fails in all of these ways.
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError):
        return
    yield from ((path, item.file_size, item.header_offset) for item in found)


def _bytes(path: Path, size: int, offset: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        beginning = file.read(_LOCAL.size)
        if len(beginning) < _LOCAL.size:
            return b""
        name, extra = _LOCAL.unpack(beginning)
        file.seek(name + extra, 1)
        return file.read(size)


def _mentions(path: Path, formats: set[bytes | None]) -> bool:
    """Whether a pickle knows these number formats and no other; its words are searched, not read."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next((item for item in archive.namelist() if item.endswith("/data.pkl")), None)
            words = b""
            if name is not None:
                with archive.open(name) as file:
                    words = file.read(_MOST_WORDS)
    except (OSError, EOFError, ValueError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error):
        return False  # what cannot be read is said by those who read all of it
    return {storage for storage in _STORAGES.values() if b"\n" + storage + b"\n" in words} == formats
