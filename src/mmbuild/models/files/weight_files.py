"""Selects the weight files of a directory, and checks that index, shards and headers agree.

transformers and mmbuild silently use one set of files and ignore the rest. If a directory contains two sets, it is
ambiguous which one is meant, so it is rejected and the message names both. Pickles are not opened.
"""

from __future__ import annotations

import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from mmbuild.base.errors import MmbuildError
from mmbuild.base.files import entries, read_beginning, require_regular
from mmbuild.base.limits import MB
from mmbuild.models.errors import ModelFilesError
from mmbuild.models.files.hf_layout import is_weights
from mmbuild.models.files.small_files import LFS_POINTER, display, read_json

Header = Mapping[str, Any]
_AGAIN = "download the file again"
_OTHER_NAME = "rename it to `{}`, or download the weights again"
# Beginnings of torch.save's files: an archive since 1.6, a pickle of protocol 2 or later before.
_PICKLES = (b"PK\x03\x04", b"\x80")
_SHOWN = 8
_REMOVE = "remove the set that is not the model"


@dataclass(frozen=True, slots=True)
class WeightFileKind:
    """A kind of weight files, by the names that ``save_pretrained`` gives them.

    Attributes:
        single: The file of a model in one piece.
        index: The file that assigns each tensor to a shard.
        shard: Pattern of a shard's name.
    """

    single: str
    index: str
    shard: re.Pattern[str]


# Preferred kind first. Hubs often have both kinds, as two formats of the same weights.
KINDS = (
    WeightFileKind(
        "model.safetensors", "model.safetensors.index.json", re.compile(r"model-\d+-of-\d+\.safetensors")
    ),
    WeightFileKind(
        "pytorch_model.bin", "pytorch_model.bin.index.json", re.compile(r"pytorch_model-\d+-of-\d+\.bin")
    ),
)


@dataclass(frozen=True, slots=True)
class WeightSet:
    """The weight files of one directory.

    Attributes:
        files: Their names, sorted.
        index: The index's name; None where one file holds everything.
        placed: Shard of each tensor as the index states it; empty without an index.
    """

    files: tuple[str, ...]
    index: str | None
    placed: Mapping[str, str]


def weight_set(directory: Path) -> WeightSet | None:
    """The only set of weights in ``directory``; None if there are no weight files.

    Raises:
        ModelFilesError: MM732, there are two sets; MM733, shards and index do not belong together; MM404, a file is a
            git-LFS pointer; MM403 or MM406, it has another format than its name says; MM405, a shard is missing.
        SmallFileError: MM731, the index is damaged.
    """
    names = [path.name for path in entries(directory) if path.is_file()]
    if not any(is_weights(name) and not name.endswith(".json") for name in names):
        return None
    for kind in KINDS:
        found = _of_kind(kind, directory, names)
        if found is not None:
            for name in found.files:
                _refuse_pointer(directory / name)
                _refuse_other_format(directory / name)
            return found
    return None


def pickled_set(directory: Path) -> WeightSet | None:
    """The pickles next to preferred weights; None if they are not a complete set."""
    names = [path.name for path in entries(directory) if path.is_file()]
    try:
        return _of_kind(KINDS[-1], directory, names)
    except MmbuildError:
        return None  # incomplete, and nobody reads them


def _of_kind(kind: WeightFileKind, directory: Path, names: list[str]) -> WeightSet | None:
    shards = [name for name in names if kind.shard.fullmatch(name)]
    if kind.index in names:
        return _indexed(kind, directory, names, shards)
    if kind.single in names:
        if shards:
            raise _two_sets(directory, f"`{kind.single}`", _listed(shards))
        return WeightSet((kind.single,), None, {})
    if shards:
        raise ModelFilesError(
            f"`{display(directory)}` holds {_listed(shards)} without `{kind.index}`",
            code="MM733",
            hint="download the index too, or remove the shards",
        )
    return None


def _indexed(kind: WeightFileKind, directory: Path, names: list[str], shards: list[str]) -> WeightSet:
    placed = _placed(directory / kind.index)
    files = sorted(set(placed.values()))
    missing = [name for name in files if name not in names]
    left = [name for name in shards if name not in files]
    if kind.single in names and kind.single not in files:
        raise _two_sets(directory, f"`{kind.single}`", f"`{kind.index}`, which names {_listed(files)}")
    if left:
        raise ModelFilesError(
            f"`{display(directory)}` holds {_listed(left)}, and `{kind.index}` names {_listed(files)}",
            code="MM733",
            hint="remove the shards that the index does not name, or download the index that belongs to them",
        )
    if missing:
        raise ModelFilesError(
            f"`{kind.index}` names `{missing[0]}`, which is not in `{display(directory)}`",
            code="MM405",
            hint="complete the download; every shard that the index names is needed",
        )
    return WeightSet(tuple(files), kind.index, placed)


def _placed(index: Path) -> Mapping[str, str]:
    placed = read_json(index).get("weight_map")
    names = placed.values() if isinstance(placed, dict) else [None]
    if not placed or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise ModelFilesError(
            f"`{display(index)}` is not an index of weight files: `weight_map` does not name a file for each tensor",
            code="MM403",
            hint="download the file again",
        )
    return dict(placed)


def _two_sets(directory: Path, one: str, other: str) -> ModelFilesError:
    return ModelFilesError(
        f"`{display(directory)}` holds two sets of weights: {one}, and {other}", code="MM732", hint=_REMOVE
    )


def require_one_place(model: Path, directories: Iterator[str] | tuple[str, ...]) -> None:
    """Check that there are no weights both in a model's directory and in its subdirectories.

    Raises:
        ModelFilesError: MM732.
    """
    own = _weight_files(model)
    for name in directories:
        below = _weight_files(model / name) if (model / name).is_dir() else []
        if own and below:
            raise _two_sets(model, f"`{own[0]}`", f"`{name}/{below[0]}`")


def _weight_files(directory: Path) -> list[str]:
    names = [path.name for path in entries(directory)]
    return [
        name for name in names if any(name == kind.single or kind.shard.fullmatch(name) for kind in KINDS)
    ]


def _refuse_pointer(path: Path) -> None:
    if read_beginning(path, len(LFS_POINTER)) == LFS_POINTER:
        raise ModelFilesError(
            f"`{display(path)}` is a git-LFS pointer, not the file itself",
            code="MM404",
            hint="run `git lfs pull` in the model's repository",
        )


def _refuse_other_format(path: Path) -> None:
    found = other_format(path)
    if found is not None:
        raise ModelFilesError(f"`{display(path)}` {found.problem}", code=found.code, hint=found.hint)


@dataclass(frozen=True, slots=True)
class OtherFormat:
    """What a weight file is instead of what its name says.

    Attributes:
        problem: The end of a sentence that begins with the file.
        hint: What to do.
        code: MM403, or MM406 for a pickle's name.
    """

    problem: str
    hint: str
    code: str = "MM406"


def other_format(path: Path) -> OtherFormat | None:
    """The other format of a weight file, by its beginning; None if there is none.

    The header of safetensors has its own checks.
    """
    beginning = read_beginning(path, 16)
    # The length of a header, with which safetensors begins, can look like the beginning of a pickle.
    is_tensors = beginning[8:9] == b"{" and int.from_bytes(beginning[:8], "little") < path.stat().st_size
    is_pickle = beginning.startswith(_PICKLES) and not is_tensors
    if path.suffix == ".safetensors" and is_pickle:
        hint = _OTHER_NAME.format("pytorch_model.bin")
        return OtherFormat("is a file of torch.save, not of safetensors", hint, "MM403")
    if path.suffix != ".bin" or is_pickle:
        return None
    if is_tensors:
        hint = _OTHER_NAME.format("model.safetensors")
        return OtherFormat("is a safetensors file, not one of torch.save", hint)
    if not beginning:
        return OtherFormat("is empty", _AGAIN)
    return OtherFormat(f"is not a file of torch.save: it begins with {beginning[:_SHOWN]!r}", _AGAIN)


def require_agreement(directory: Path, found: WeightSet, headers: Mapping[str, Header]) -> None:
    """Check an index against the headers of its shards.

    Args:
        directory: Where the files are.
        found: The set of weights.
        headers: Header of each safetensors file, by name.

    Raises:
        ModelFilesError: MM733, a tensor is not in the shard that the index names, or is in two shards.
    """
    for tensor, name in sorted(found.placed.items()):
        if name in headers and tensor not in headers[name]:
            raise _disagrees(
                directory, f"`{found.index}` places `{tensor}` in `{name}`, which does not hold it"
            )
    holders: dict[str, str] = {}
    for name, header in sorted(headers.items()):
        for tensor in header:
            stated = found.placed.get(tensor, name)
            first = holders.setdefault(tensor, name)
            if stated != name:
                raise _disagrees(
                    directory, f"`{name}` holds `{tensor}`, which `{found.index}` places in `{stated}`"
                )
            if first != name:
                raise _disagrees(directory, f"`{first}` and `{name}` both hold `{tensor}`")


def _disagrees(directory: Path, what: str) -> ModelFilesError:
    return ModelFilesError(
        f"in `{display(directory)}`, {what}",
        code="MM733",
        hint="download the weights again; index and shards are of different versions",
    )


def _listed(names: list[str]) -> str:
    """One name, or the first and the number of the others."""
    return f"`{names[0]}`" + (f" and {len(names) - 1} more" if len(names) > 1 else "")


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
    """Check that pickles contain the same model as the safetensors files next to them.

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
