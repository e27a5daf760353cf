"""Which weight files of a directory are the model, and whether index, shards and headers agree.

transformers and mmbuild each take one set of files and ignore the rest without a word. Where a directory holds two,
nothing says which one its owner means, so both are named and the directory is refused. Pickles are not opened.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmbuild.base.directory_listing import entries
from mmbuild.base.errors import MmbuildError
from mmbuild.base.magic_bytes import read_beginning
from mmbuild.models.errors import ModelFilesError
from mmbuild.models.files.small_files import LFS_POINTER, display, read_json

Header = Mapping[str, Any]
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


# The preferred kind first. Both kinds side by side are common on hubs, as two forms of the same weights.
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
    """The one set of weights in ``directory``; None where it holds no weight file.

    Raises:
        ModelFilesError: MM732, there are two sets; MM733, shards and index do not belong together; MM404, a file is a
            git-LFS pointer; MM405, a shard is missing.
        SmallFileError: MM731, the index is damaged.
    """
    names = [path.name for path in entries(directory) if path.is_file()]
    if not any(name == kind.single or kind.shard.fullmatch(name) for kind in KINDS for name in names):
        return None
    for kind in KINDS:
        found = _of_kind(kind, directory, names)
        if found is not None:
            for name in found.files:
                _refuse_pointer(directory / name)
            return found
    return None


def pickled_set(directory: Path) -> WeightSet | None:
    """The pickles next to preferred weights; None where they are not a whole set of their own."""
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
    """Refuse weights in a model's own directory next to weights in the directories that it consists of.

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


def require_agreement(directory: Path, found: WeightSet, headers: Mapping[str, Header]) -> None:
    """Compare an index with the headers of its shards.

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
