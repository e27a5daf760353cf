"""Reads the shapes that a package was compiled for from its sources, without running it.

A package gets its weights and caches only by name and address, so it would access a smaller tensor beyond its end.
AOTInductor keeps the C++ of the wrapper in the package, which lists every constant with its shape.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

from mmbuild.base.files import FileRefusedError, require_regular
from mmbuild.base.limits import MB
from mmbuild.models.errors import EngineError

# Packages name constants after the wrapper module (`Prefill.model`), checkpoints do not.
PACKAGE_PREFIX = "model."

Shape = tuple[int, ...]

_WRAPPER = ".wrapper.cpp"
_MOST_BYTES = 64 * MB
_SHAPE = re.compile(rb"constants_info_\[(\d+)\]\.shape = \{([0-9, ]*)\};")
_NAME = re.compile(rb'constants_info_\[(\d+)\]\.original_fqn = "([^"\n]*)";')
_INPUT = b"static void check_input_"
_ROWS = re.compile(rb"if \((\d+) != arg\d+_\d+_size\[0\]\)")
_FIRST = b"constants_info_[0]"


def compiled_shapes(path: Path) -> dict[str, Shape]:
    """Shapes of the constants by name in the exported module; empty if the package does not list them."""
    source = _wrapper(path)
    begin, end = source.find(_FIRST), source.rfind(b"constants_info_[")
    lines = source[begin : source.find(b"\n", end) + 1] if begin >= 0 else b""
    shapes = {index: tuple(map(int, sizes.split(b","))) if sizes else () for index, sizes in _shapes(lines)}
    names = {match[1]: match[2].decode("utf-8", "replace") for match in _NAME.finditer(lines)}
    return {name: shapes[index] for index, name in names.items() if index in shapes}


def check_shapes(path: Path, shapes: Mapping[str, Shape]) -> None:
    """Check that constants have the shapes that the package was compiled for.

    Args:
        path: The package.
        shapes: Shapes by the constants' names in a checkpoint; unknown names are ignored.

    Raises:
        EngineError: MM786, a shape differs.
    """
    for name, required in compiled_shapes(path).items():
        plain = name.removeprefix(PACKAGE_PREFIX)
        if shapes.get(plain, required) != required:
            raise _mismatch(path, f"`{plain}` of {list(required)}", f"of {list(shapes[plain])}")


def check_input(path: Path, index: int, rows: int) -> None:
    """Check that the first dimension of an input has the length that the package was compiled for.

    Args:
        path: The package.
        index: Index of the input.
        rows: Its length.

    Raises:
        EngineError: MM786, the length differs.
    """
    parts = _wrapper(path).split(_INPUT)[1:]
    body = next((part for part in parts if part.startswith(b"%d(" % index)), b"")
    match = _ROWS.search(body)
    if match is not None and int(match[1]) != rows:
        raise _mismatch(path, f"input {index + 1} of {int(match[1]):,} rows", f"of {rows:,}")


def _mismatch(path: Path, compiled: str, actual: str) -> EngineError:
    return EngineError(
        f"`{path}` is compiled for {compiled}, but engine.json and the weights imply {actual}",
        code="MM786",
        hint="the engine directory mixes files of two builds, or its engine.json was edited; "
        "run `mmbuild apply` with its recipe",
    )


def _shapes(lines: bytes) -> list[tuple[bytes, bytes]]:
    return [(match[1], match[2].strip(b", ")) for match in _SHAPE.finditer(lines)]


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
