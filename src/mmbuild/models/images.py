"""Opens images as a viewer shows them: upright, in 8-bit RGB.

All images for models, reports and calibration are opened with :func:`open_picture`. Formats are recognized by
content: PNG, JPEG, WebP, GIF, TIFF and BMP. The EXIF (or XMP, or TIFF) orientation is applied first.

8-bit grey, RGB and palette images without transparency keep their values, so that their pixels equal those of
``transformers.image_utils.load_image``. Everything else is converted; :attr:`Picture.conversion` describes how:

====================  ==========================================================================================
transparency          composited on white
16-bit grey           scaled linearly from the full range to 0..255, rounded (12-bit TIFF: from 0..4095)
float grey            scaled from 0..1 to 0..255, rounded
CMYK                  through its ICC profile to sRGB; without a profile by Pillow's formula
CIE L*a*b*            to sRGB
several frames        the first one
====================  ==========================================================================================

Images whose values have no standard interpretation (32-bit or signed integers, floats outside 0..1, NaN), and images
that would be almost black after scaling, are rejected.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmbuild.base.files import FileRefusedError, read_file
from mmbuild.base.limits import MB
from mmbuild.base.silence import quiet
from mmbuild.models import image_headers as headers
from mmbuild.models.errors import EngineError

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

# A scaled image that varies but is never brighter than this looks black: its stated range is wrong.
_DARK = 16  # maximum of 12-bit values stored in 16 bits
_ROUNDING = 1e-4  # tolerance for floats outside 0..1
_PLAIN = frozenset({"1", "L", "RGB", "P", "RGBX", "YCbCr"})
_PHOTOMETRIC, _BITS_PER_SAMPLE, _SAMPLE_FORMAT, _WHITE_IS_ZERO, _SIGNED = 262, 258, 339, 0, 2  # TIFF 6.0
# Pillow's names of the PNG layouts that it scales to 8 bits while reading.
_PNG_BITS = {"L;2": 2, "L;4": 4, "RGB;16B": 16}


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


class _RefusedError(Exception):
    """Reason why an image cannot be used; converted to MM517."""


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
    except _RefusedError as error:
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
        raise _RefusedError(f"it {error.problem}") from None
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
    except (_RefusedError, FileRefusedError) as error:
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
    except (_RefusedError, FileRefusedError) as error:
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
    too_many = headers.excess(data)
    if too_many is not None:
        raise _RefusedError(too_many)
    size = headers.webp_size(data) if data[:4] == b"RIFF" else None
    if size is not None and size[0] * size[1] > PIXELS:
        raise _RefusedError("it has too many pixels")


def _require_size(image: Any) -> None:
    """Check the size stated in the header, before decoding."""
    if not image.width or not image.height:
        raise _RefusedError("it has no pixels")
    if image.width * image.height > PIXELS // _WEIGHTS.get(image.mode, 2):
        raise _RefusedError(f"it has too many pixels: {image.width} x {image.height}")
    if max(image.size) > ASPECT * min(image.size):
        raise _RefusedError(
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
    raise _RefusedError(f"it has more than {_MOST_PAGES:,} pages")


def _from_array(array: Any) -> Any:
    """Convert uint8 [H, W] or [H, W, channels] to an image; Pillow alone would also accept floats and lists."""
    from PIL import Image as Pil

    if str(getattr(array, "dtype", "")) != "uint8" or array.ndim not in (2, 3) or 0 in array.shape:
        raise _RefusedError("it is not a picture, a path or a uint8 array")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim == 3 and array.shape[2] not in (3, 4):
        raise _RefusedError(f"an array must have 1, 3 or 4 channels, but this one has {array.shape[2]}")
    return Pil.fromarray(array)


def _converted(image: Any, path: Path | None) -> Picture:
    """Convert ``image`` to upright RGB."""
    _require_size(image)
    format_name, frames = image.format, _frames(image)
    tags = dict(getattr(image, "tag_v2", None) or _png_tags(image))
    image.load()
    steps = [] if frames == 1 or format_name == "MPO" else [f"first of {frames} frames"]
    rgb, step = _to_rgb(_upright(image), tags, format_name)
    if step is not None:
        steps.append(step)
    return Picture(_bare(rgb), ", ".join(steps) or None, path)


def _png_tags(image: Any) -> Mapping[int, Any]:
    """The bits per sample of a PNG that Pillow converts while it reads, under TIFF's tag; read before the pixels."""
    tiles = getattr(image, "tile", None) if image.format == "PNG" else None
    raw = tiles[0][3] if tiles else None
    bits = _PNG_BITS.get(raw if isinstance(raw, str) else "")
    return {} if bits is None else {_BITS_PER_SAMPLE: bits}


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


def _to_rgb(image: Any, tags: Mapping[int, Any], format_name: str | None) -> tuple[Any, str | None]:
    """Convert ``image`` to mode RGB; returns it with a description of the conversion."""
    mode = image.mode
    if mode != "I" and _SIGNED in _each(tags.get(_SAMPLE_FORMAT)):
        raise _RefusedError("its values are signed integers, which have no standard conversion to 8 bits")
    if mode == "F":
        return _from_float(image, tags)
    if mode.startswith("I;16") or (mode == "I" and format_name == "PNG"):
        return _from_16_bit(image, tags)
    if mode in _OTHERS:
        return _OTHERS[mode](image)
    image = _with_8_bit_colour(image, tags)
    if image.has_transparency_data or mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        return _on_white(image), "transparency composited on white"
    if mode in _PLAIN:
        return image.convert("RGB"), None
    raise _RefusedError(f"images of Pillow's mode `{mode}` have no standard conversion to 8 bits")


def _each(value: object) -> tuple[object, ...]:
    return value if isinstance(value, tuple) else (value,)


def _with_8_bit_colour(image: Any, tags: Mapping[int, Any]) -> Any:
    """Scale the transparent colour of a PNG to 8 bits as the pixels are: Pillow compares it with these unscaled."""
    import numpy as np

    transparent: Any = image.info.get("transparency")
    bits: Any = tags.get(_BITS_PER_SAMPLE)
    if transparent is None or bits not in _PNG_BITS.values():
        return image
    if isinstance(transparent, int) and image.mode == "L":
        image = image.copy()
        image.info["transparency"] = transparent * 255 // ((1 << bits) - 1)
    elif isinstance(transparent, tuple) and image.mode == "RGB":
        # Pillow keeps the upper 8 of 16 bits: colours that differ in the lower ones are no longer distinguishable.
        upper = [value >> 8 for value in transparent]
        if (np.asarray(image) == upper).all(axis=-1).any():
            raise _RefusedError("it has a transparent colour of 16 bits per channel; save it with 8")
        image = image.copy()
        del image.info["transparency"]
    return image


def _on_white(image: Any) -> Any:
    from PIL import Image as Pil

    # Pillow cannot convert these modes, or bitmaps with a transparent colour, directly to RGBA.
    between = {"La": "LA", "PA": "RGBA", "RGBa": "RGBA", "1": "L"}.get(image.mode)
    if between is not None:
        transparent = image.info.get("transparency")
        image = image.convert(between)
        if image.mode == "L" and transparent is not None:
            image.info["transparency"] = 255 if transparent else 0
    layer = image.convert("RGBA")
    return Pil.alpha_composite(Pil.new("RGBA", layer.size, "white"), layer).convert("RGB")


def _from_16_bit(image: Any, tags: Mapping[int, Any]) -> tuple[Any, str]:
    import numpy as np

    values = np.asarray(image).astype(np.int64)
    bits = tags.get(_BITS_PER_SAMPLE, (16,))
    bits = int(bits[0] if isinstance(bits, tuple) else bits)
    most = (1 << bits) - 1 if 8 < bits <= 16 else 65535
    if values.min() < 0 or values.max() > most:
        raise _RefusedError(f"its values are outside 0..{most}")
    scaled = (values * 255 + most // 2) // most
    _require_visible(values, scaled, f"0..{most}")
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        scaled = 255 - scaled
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        scaled = np.where(values == transparent, 255, scaled)
    return _grey(scaled), f"{bits}-bit grey scaled to 8 bits"


def _from_float(image: Any, tags: Mapping[int, Any]) -> tuple[Any, str]:
    import numpy as np

    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise _RefusedError("its floats are not all finite")
    if values.min() < -_ROUNDING or values.max() > 1 + _ROUNDING:
        raise _RefusedError(
            f"its floats are from {values.min():.4g} to {values.max():.4g}, but only 0..1 has a standard conversion"
        )
    scaled = np.floor(values.clip(0, 1) * 255 + 0.5).astype(np.int64)
    _require_visible(values, scaled, "0..1")
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        scaled = 255 - scaled
    return _grey(scaled), "float grey scaled from 0..1 to 8 bits"


def _require_visible(values: Any, scaled: Any, meant: str) -> None:
    if values.min() != values.max() and scaled.max() <= _DARK:
        raise _RefusedError(
            f"it would be almost black: its values reach {values.max():.4g} of {meant}; save it scaled to 8 bits"
        )


def _grey(values: Any) -> Any:
    import numpy as np
    from PIL import Image as Pil

    return Pil.fromarray(values.astype(np.uint8)).convert("RGB")


def _from_cmyk(image: Any) -> tuple[Any, str]:
    profile = image.info.get("icc_profile")
    if not profile:
        return image.convert("RGB"), "CMYK without a profile converted by Pillow's formula"
    from PIL import ImageCms

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        made = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError) as error:
        raise _RefusedError("its ICC profile does not fit CMYK") from error
    return made, "CMYK converted through its ICC profile"


def _from_lab(image: Any) -> tuple[Any, str]:
    from PIL import ImageCms

    made = ImageCms.profileToProfile(
        image, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
    )
    return made, "L*a*b* converted to sRGB"


_OTHERS: Mapping[str, Callable[[Any], tuple[Any, str]]] = {
    "CMYK": _from_cmyk,
    "LAB": _from_lab,
}
