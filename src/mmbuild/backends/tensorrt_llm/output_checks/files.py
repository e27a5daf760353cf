"""Reads JSON files and safetensors headers without the libraries that write them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmbuild.base.errors import MmbuildError
from mmbuild.base.files import FileRefusedError, read_object
from mmbuild.base.limits import CHECKPOINT_CONFIG
from mmbuild.base.safetensors_header import HeaderProblemError, read_tensor_header


class ProductError(MmbuildError):
    """An output file of a command is missing or does not match the recipe."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor in a safetensors file: dtype name (``F16``, ``I8``, ...) and shape."""

    dtype: str
    shape: tuple[int, ...]


def read_json(path: Path) -> Mapping[str, Any]:
    """The object in ``path``.

    Raises:
        ProductError: MM652, the file cannot be read or is not a JSON object.
    """
    try:
        return read_object(path, CHECKPOINT_CONFIG)
    except FileRefusedError as error:
        raise _unreadable(path, f"it {error.problem}") from None
    except OSError as error:
        raise _unreadable(path, str(error)) from error


def read_header(path: Path) -> Mapping[str, Stored]:
    """Tensors of a safetensors file by name; checks the size of the data but does not read it.

    Raises:
        ProductError: MM659, the header cannot be read, or the file's size does not match it.
    """
    try:
        header = read_tensor_header(path)
    except HeaderProblemError as error:
        raise _broken(path, str(error)) from None
    except FileRefusedError as error:
        raise _broken(path, f"it {error.problem}") from None
    except OSError as error:
        raise _broken(path, str(error)) from error
    return {name: Stored(tensor.dtype, tensor.shape) for name, tensor in header.items()}


def _unreadable(path: Path, problem: str) -> ProductError:
    return ProductError(
        f"cannot read config.json at {path}: {problem}",
        code="MM652",
        hint="empty the directory and run the command again",
    )


def _broken(path: Path, problem: str) -> ProductError:
    return ProductError(
        f"{path} is not a complete safetensors file: {problem}",
        code="MM659",
        hint="check free disk space and look for `Killed` in the log, remove the file, and run the command again",
    )
