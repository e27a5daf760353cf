"""Opens images as a viewer shows them: upright, in 8-bit RGB.

All images for models, reports and calibration are opened with :func:`open_picture`. Formats are recognized by
content: PNG, JPEG, WebP, GIF, TIFF and BMP. Of several frames the first one is taken. The EXIF (or XMP, or TIFF)
orientation is applied before the conversion of :mod:`mmbuild.models.image_conversion`.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmbuild.base.files import FileRefusedError, read_file
from mmbuild.base.limits import MB
from mmbuild.base.silence import quiet
from mmbuild.models import image_headers as headers
from mmbuild.models.errors import EngineError
from mmbuild.models.image_conversion import RefusedError, png_tags, to_rgb

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP")
_HINT = "use a PNG, JPEG, WebP, GIF, TIFF or BMP file, or a uint8 array [height, width, 3]"

PIXELS = 64_000_000
"""Limit of pixels; phone cameras have 50 million. Each takes up to 12 bytes of memory during conversion."""
ASPECT = 50
"""Limit of the ratio of the sides: models resize by the shorter side, which scales the longer one too."""
PICTURE_BYTES = 200 * MB
_MOST_PAGES = 1_000
# Memory per pixel during conversion, relative to RGB, by mode; 2 for other modes.
_WEIGHTS = {
    "1": 1,
    "L": 1,
    "P": 1,
    "RGB": 1,
    "RGBX": 1,
    "YCbCr": 1,
    "I": 3,
    "F": 3,
    "I;16": 3,
    "I;16B": 3,
    "I;16L": 3,
}


@dataclass(frozen=True, slots=True)
class Picture:
    """An opened image.

    Attributes:
        image: ``PIL.Image.Image``, mode RGB, upright.
        conversion: Description of a conversion of its values; None if they are unchanged.
        path: The file; None if the image did not come from a file.
    """

    image: Any
    conversion: str | None = None
    path: Path | None = None

    def png(self) -> bytes:
        """The image as a PNG file with the same pixels."""
        buffer = io.BytesIO()
        self.image.save(buffer, "PNG")
        return buffer.getvalue()


class PictureError(EngineError):
    """An image cannot be opened (MM517).

    Attributes:
        reason: The problem, without the image's name.
    """

    reason = ""


def open_picture(source: Any) -> Picture:
    """Open an image.

    Args:
        source: A path, the bytes of a file, a ``PIL.Image.Image``, a uint8 array [height, width] or [height, width,
            1, 3 or 4], or a :class:`Picture`.

    Raises:
        PictureError: MM517, it is missing, damaged, has another format, or cannot be converted to 8-bit RGB.
    """
    from PIL import Image as Pil

    if isinstance(source, Picture):
        return source
    path = Path(source) if isinstance(source, (str, os.PathLike)) else None
    try:
        if path is not None:
            return _from_file(path)
        if isinstance(source, bytes):
            return _from_bytes(source, None)
        image = source if isinstance(source, Pil.Image) else _from_array(source)
        return _converted(image, None)
    except RefusedError as error:
        raise _unreadable(source, str(error)) from None
    except MemoryError:
        raise _unreadable(source, "it does not fit into memory") from None
    # Pillow's readers raise many kinds of errors for damaged files.
    except Exception as error:
        raise _unreadable(source, getattr(error, "strerror", None) or _damage(error)) from None


def _damage(error: BaseException) -> str:
    from PIL import Image as Pil

    if isinstance(error, Pil.UnidentifiedImageError):
        return "it is not a picture in one of these formats"
    if isinstance(error, (Pil.DecompressionBombError, Pil.DecompressionBombWarning)):
        return "it has too many pixels"
    line = str(error).strip().partition("\n")[0].rstrip(".")
    return f"it is damaged ({line or type(error).__name__})"


def _unreadable(source: Any, reason: str) -> PictureError:
    is_file = isinstance(source, (str, os.PathLike))
    kind = f"{len(source):,} bytes" if isinstance(source, bytes) else f"type {type(source).__name__}"
    name = f"the image `{os.fspath(source)}`" if is_file else f"an image of {kind}"
    error = PictureError(f"{name} cannot be read: {reason}", code="MM517", hint=_HINT)
    error.reason = reason
    return error


def _from_file(path: Path) -> Picture:
    try:
        data = read_file(path, PICTURE_BYTES)
    except FileRefusedError as error:
        raise RefusedError(f"it {error.problem}") from None
    return _from_bytes(data, path)


def _from_bytes(data: bytes, path: Path | None) -> Picture:
    from PIL import Image as Pil

    _require_header(data)
    # Silence warnings of Pillow and libtiff about irrelevant metadata.
    with quiet(native=_is_tiff(data)), Pil.open(io.BytesIO(data), formats=FORMATS) as opened:
        return _converted(opened, path)


def _is_tiff(data: bytes) -> bool:
    return data.startswith((b"II", b"MM"))


def require_header(path: Path) -> None:
    """Check the header of an image file, without decoding its pixels.

    Raises:
        PictureError: MM517.
    """
    from PIL import Image as Pil

    try:
        data = read_file(path, PICTURE_BYTES)
        _require_header(data)
        with quiet(native=_is_tiff(data)), Pil.open(io.BytesIO(data), formats=FORMATS) as opened:
            _require_size(opened)
    except (RefusedError, FileRefusedError) as error:
        raise _unreadable(path, getattr(error, "problem", None) or str(error)) from None
    except Exception as error:
        raise _unreadable(path, getattr(error, "strerror", None) or _damage(error)) from None


def require_headers(pairs: Iterable[tuple[Sequence[str | os.PathLike[str]], str | None]]) -> None:
    """:func:`require_header` of the images of several questions, each with its prompt."""
    for path in dict.fromkeys(path for images, _ in pairs for path in images):
        require_header(Path(path))


def open_as_saved(picture: Picture) -> Any:
    """Open ``picture`` from disk again, without applying its orientation, for an independent reader.

    Raises:
        PictureError: MM517, the file was removed or replaced.
    """
    from PIL import Image as Pil

    own_file = picture.path is not None and picture.conversion is None
    try:
        data = read_file(picture.path, PICTURE_BYTES) if own_file and picture.path else picture.png()
        _require_header(data)
        opened = Pil.open(io.BytesIO(data), formats=FORMATS)
        _require_size(opened)
        return opened
    except (RefusedError, FileRefusedError) as error:
        raise _unreadable(picture.path, str(error)) from None
    except Exception as error:
        raise _unreadable(picture.path, getattr(error, "strerror", None) or _damage(error)) from None


def require_pixels(width: int, height: int) -> None:
    """Check the number of pixels of an image.

    Raises:
        PictureError: MM517.
    """
    if width * height > PIXELS:
        error = PictureError(
            f"an image of {width} x {height} pixels has more than {PIXELS:,}",
            code="MM517",
            hint="scale the image down, or crop it to what the question is about",
        )
        error.reason = "it has too many pixels"
        raise error


def _require_header(data: bytes) -> None:
    """Reject files that would take too much time or memory to open, before their size is known."""
    other = headers.other_format(data[:32])
    if other is not None:
        raise RefusedError(f"it is {other}")
    too_many = headers.excess(data)
    if too_many is not None:
        raise RefusedError(too_many)
    size = headers.webp_size(data) if data[:4] == b"RIFF" else None
    if size is not None and size[0] * size[1] > PIXELS:
        raise RefusedError("it has too many pixels")


def _require_size(image: Any) -> None:
    """Check the size stated in the header, before decoding."""
    if not image.width or not image.height:
        raise RefusedError("it has no pixels")
    if image.width * image.height > PIXELS // _WEIGHTS.get(image.mode, 2):
        raise RefusedError(f"it has too many pixels: {image.width} x {image.height}")
    if max(image.size) > ASPECT * min(image.size):
        raise RefusedError(
            f"it is {image.width} x {image.height} pixels, but one side must be at most {ASPECT} times the other"
        )


def _frames(image: Any) -> int:
    """Number of frames; the directories of a TIFF are read one by one."""
    if image.format != "TIFF":
        return int(getattr(image, "n_frames", 1))
    try:
        for number in range(1, _MOST_PAGES + 1):
            image.seek(number)
    except EOFError:
        image.seek(0)
        return number
    raise RefusedError(f"it has more than {_MOST_PAGES:,} pages")


def _from_array(array: Any) -> Any:
    """Convert uint8 [H, W] or [H, W, channels] to an image; Pillow alone would also accept floats and lists."""
    from PIL import Image as Pil

    if str(getattr(array, "dtype", "")) != "uint8" or array.ndim not in (2, 3) or 0 in array.shape:
        raise RefusedError("it is not a picture, a path or a uint8 array")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim == 3 and array.shape[2] not in (3, 4):
        raise RefusedError(f"an array must have 1, 3 or 4 channels, but this one has {array.shape[2]}")
    return Pil.fromarray(array)


def _converted(image: Any, path: Path | None) -> Picture:
    """Convert ``image`` to upright RGB."""
    _require_size(image)
    format_name, frames = image.format, _frames(image)
    tags = dict(getattr(image, "tag_v2", None) or png_tags(image))
    image.load()
    steps = [] if frames == 1 or format_name == "MPO" else [f"first of {frames} frames"]
    rgb, step = to_rgb(_upright(image), tags, format_name)
    if step is not None:
        steps.append(step)
    return Picture(_bare(rgb), ", ".join(steps) or None, path)


def _upright(image: Any) -> Any:
    """Apply the orientation tag of ``image``; unreadable EXIF data is ignored."""
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image)
    except (SyntaxError, ValueError, TypeError, KeyError, IndexError, OverflowError, ArithmeticError):
        return image
    except Exception as error:
        if type(error).__module__ != "struct":
            raise
        return image


def _bare(image: Any) -> Any:
    """Copy the RGB pixels without metadata (profiles, EXIF data, an open file)."""
    fresh = image.copy()
    fresh.info = {}
    return fresh
