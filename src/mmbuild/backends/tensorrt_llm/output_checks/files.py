"""Plain files read without the libraries that write them: JSON, and what a safetensors file says of itself."""

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
    """A file that a command should have left is missing, or says something else than the recipe."""


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
        return read_object(path, CHECKPOINT_CONFIG)
    except FileRefusedError as error:
        raise _unreadable(path, f"it {error.problem}") from None
    except OSError as error:
        raise _unreadable(path, str(error)) from error


def read_header(path: Path) -> Mapping[str, Stored]:
    """Tensors of a safetensors file by name; the data is not read, its size is compared.

    Raises:
        ProductError: MM659, the header is not readable, or the file is shorter or longer than the header says.
    """
    try:
        found = read_tensor_header(path)
    except HeaderProblemError as error:
        raise _broken(path, str(error)) from None
    except FileRefusedError as error:
        raise _broken(path, f"it {error.problem}") from None
    except OSError as error:
        raise _broken(path, str(error)) from error
    return {name: Stored(tensor.dtype, tensor.shape) for name, tensor in found.items()}


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
