"""Checks whether a file is a usable image, before anything is built.

The check is by content, not by name: by decoding with Pillow if that is installed, otherwise by the first bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from mmbuild.base.files import FileRefusedError, read_beginning
from mmbuild.base.near_paths import path_hint
from mmbuild.models.errors import EngineError
from mmbuild.models.image_headers import other_format

# Magic numbers; that of WebP is split by its length.
_BEGINNINGS = {
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "JPEG": (b"\xff\xd8\xff",),
    "GIF": (b"GIF87a", b"GIF89a"),
    "TIFF": (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"),  # and BigTIFF
    "BMP": (b"BM",),
}
TAKEN = "PNG, JPEG, WebP, GIF, TIFF or BMP"


def problem(path: Path, *, whole: bool = True) -> str | None:
    """The problem with the image in ``path``, as the end of a sentence; None if it is usable.

    Args:
        path: The file.
        whole: Whether to decode all of it, which detects truncated files; otherwise only the header is read.
    """
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        return "does not exist" if missing else f"cannot be read: {getattr(error, 'strerror', None) or error}"
    return _problem(path, whole, (status.st_ino, status.st_size, status.st_mtime_ns))


def require_usable(paths: Iterable[Path]) -> None:
    """Require that images can be read, before an engine is loaded for them; reads only their headers.

    Raises:
        EngineError: MM517, naming the first image that is missing or is not one.
    """
    for path in paths:
        fault = problem(path, whole=False)
        if fault is not None:
            raise EngineError(
                f"the image `{path}` {fault}",
                code="MM517",
                hint=path_hint(path, "check the path") if "exist" in fault else f"use a {TAKEN} file",
            )


@lru_cache(maxsize=256)
def _problem(path: Path, whole: bool, stat: tuple[int, ...]) -> str | None:  # noqa: ARG001 (key)
    try:
        start = read_beginning(path, 32)
    except FileRefusedError as error:
        return error.problem
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    if not start:
        return "is empty"
    if _format(start) is None:
        other = other_format(start)
        return f"is {other}" if other else f"is not a {TAKEN} file"
    return _undecodable(path, whole)


def _format(start: bytes) -> str | None:
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WEBP"
    return next((name for name, beginnings in _BEGINNINGS.items() if start.startswith(beginnings)), None)


def _undecodable(path: Path, whole: bool) -> str | None:
    """The problem that Pillow reports; None if there is none or Pillow is not installed."""
    try:
        import PIL  # noqa: F401
    except ImportError:
        return None
    from mmbuild.models.images import PictureError, open_picture, require_header

    try:
        if whole:
            open_picture(path)
        else:
            require_header(path)
    except PictureError as error:
        return f"cannot be read: {error.reason}"
    return None
