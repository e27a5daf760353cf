"""Reads the shapes that a package was compiled for from its sources, without running it.

A package trusts the sizes of its inputs, weights and caches included. AOTInductor keeps the C++ of the wrapper in the
package, which has a check of every input (and by default does not call it).
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmbuild.base.files import FileRefusedError, require_regular
from mmbuild.base.limits import MB
from mmbuild.models.errors import EngineError

_WRAPPER = ".wrapper.cpp"
_MOST_BYTES = 64 * MB
_INPUT = b"static void check_input_"
_STATIC = re.compile(rb"if \((\d+) != arg\d+_\d+_size\[(\d+)\]\)")
_MOST = re.compile(rb"if \(arg\d+_\d+_size\[(\d+)\] > (\d+)\)")


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of an input that a package was compiled for, by dimension.

    Attributes:
        static: Exact sizes.
        most: Upper limits of dynamic ones.
    """

    static: Mapping[int, int] = field(default_factory=dict)
    most: Mapping[int, int] = field(default_factory=dict)


def compiled_sizes(path: Path) -> tuple[Sizes, ...]:
    """The sizes of every input; empty if the package does not list them."""
    sizes = {}
    for part in _wrapper(path).split(_INPUT)[1:]:
        number, _, body = part.partition(b"(")
        if number.isdigit():
            static = {int(dim): int(size) for size, dim in _STATIC.findall(body)}
            sizes[int(number)] = Sizes(static, {int(dim): int(size) for dim, size in _MOST.findall(body)})
    return tuple(sizes.get(index, Sizes()) for index in range(max(sizes, default=-1) + 1))


def check_sizes(
    path: Path,
    given: Sequence[tuple[str, Sequence[int]] | None],
    compiled: Sequence[Sizes] | None = None,
) -> None:
    """Check that tensors have the sizes that a package was compiled for.

    Args:
        path: The package.
        given: Name and shape of each input in order, the largest if shapes vary; None for those of unknown shape.
        compiled: Result of :func:`compiled_sizes`, if it is known.

    Raises:
        EngineError: MM786, a size or the number of inputs differs.
    """
    compiled = compiled_sizes(path) if compiled is None else compiled
    if compiled and len(compiled) != len(given):
        raise mismatch(path, f"{len(compiled)} inputs", f"{len(given)}")
    for sizes, item in zip(compiled, given, strict=False):
        if item is not None:
            _check(path, sizes, *item)


def _check(path: Path, sizes: Sizes, name: str, shape: Sequence[int]) -> None:
    for dim, size in sizes.static.items():
        if dim >= len(shape) or shape[dim] != size:
            raise mismatch(path, f"`{name}` with {size:,} in dimension {dim + 1}", f"one of {list(shape)}")
    for dim, size in sizes.most.items():
        if dim < len(shape) and shape[dim] > size:
            raise mismatch(
                path, f"`{name}` with at most {size:,} in dimension {dim + 1}", f"one of {list(shape)}"
            )


def mismatch(path: Path, compiled: str, actual: str) -> EngineError:
    """The error for a package that does not fit what is to be passed to it."""
    return EngineError(
        f"`{path}` is compiled for {compiled}, but engine.json and the weights imply {actual}",
        code="MM786",
        hint="the engine directory mixes files of two builds, or its engine.json was edited; "
        "run `mmbuild apply` with its recipe",
    )


def _wrapper(path: Path) -> bytes:
    """The C++ of a package's wrapper; empty if there is none. Damaged packages are reported when they are loaded."""
    try:
        require_regular(path)
        with zipfile.ZipFile(path) as package:
            entries = [entry for entry in package.infolist() if entry.filename.endswith(_WRAPPER)]
            if len(entries) != 1 or entries[0].file_size > _MOST_BYTES:
                return b""
            return package.read(entries[0])
    except (
        FileRefusedError,
        OSError,
        zipfile.BadZipFile,
        zlib.error,
        ValueError,
        NotImplementedError,
        RuntimeError,
    ):
        return b""
