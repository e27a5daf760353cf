"""Converts images of any mode that Pillow opens to 8-bit RGB.

8-bit grey, RGB and palette images without transparency keep their values, so that their pixels equal those of
``transformers.image_utils.load_image``. Everything else is converted, with a description of how:

====================  ==========================================================================================
transparency          composited on white
16-bit grey           scaled linearly from the full range to 0..255, rounded (12-bit TIFF: from 0..4095)
float grey            scaled from 0..1 to 0..255, rounded
CMYK                  through its ICC profile to sRGB; without a profile by Pillow's formula
CIE L*a*b*            to sRGB
====================  ==========================================================================================

Images whose values have no standard interpretation (32-bit or signed integers, floats outside 0..1, NaN), and images
that would be almost black after scaling, are rejected.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

# A scaled image that varies but is never brighter than this looks black: its stated range is wrong.
_DARK = 16  # maximum of 12-bit values stored in 16 bits
_ROUNDING = 1e-4  # tolerance for floats outside 0..1
_PLAIN = frozenset({"1", "L", "RGB", "P", "RGBX", "YCbCr"})
_PHOTOMETRIC, _BITS_PER_SAMPLE, _SAMPLE_FORMAT, _WHITE_IS_ZERO, _SIGNED = 262, 258, 339, 0, 2  # TIFF 6.0
# Pillow's names of the PNG layouts that it scales to 8 bits while reading.
_PNG_BITS = {"L;2": 2, "L;4": 4, "RGB;16B": 16}


class RefusedError(Exception):
    """Reason why an image cannot be used; :mod:`mmbuild.models.images` converts it to MM517."""


def to_rgb(image: Any, tags: Mapping[int, Any], format_name: str | None) -> tuple[Any, str | None]:
    """Convert ``image`` to mode RGB.

    Args:
        image: ``PIL.Image.Image``, upright and loaded.
        tags: Its TIFF tags by number, or :func:`png_tags`.
        format_name: Pillow's name of the format of its file; None if it did not come from a file.

    Returns:
        The image, and a description of the conversion; None if its values are unchanged.

    Raises:
        RefusedError: Its values have no standard conversion to 8 bits.
    """
    mode = image.mode
    if mode != "I" and _SIGNED in _each(tags.get(_SAMPLE_FORMAT)):
        raise RefusedError("its values are signed integers, which have no standard conversion to 8 bits")
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
    raise RefusedError(f"images of Pillow's mode `{mode}` have no standard conversion to 8 bits")


def png_tags(image: Any) -> Mapping[int, Any]:
    """The bits per sample of a PNG that Pillow converts while it reads, under TIFF's tag; read before the pixels."""
    tiles = getattr(image, "tile", None) if image.format == "PNG" else None
    raw = tiles[0][3] if tiles else None
    bits = _PNG_BITS.get(raw if isinstance(raw, str) else "")
    return {} if bits is None else {_BITS_PER_SAMPLE: bits}


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
            raise RefusedError("it has a transparent colour of 16 bits per channel; save it with 8")
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
        raise RefusedError(f"its values are outside 0..{most}")
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
        raise RefusedError("its floats are not all finite")
    if values.min() < -_ROUNDING or values.max() > 1 + _ROUNDING:
        raise RefusedError(
            f"its floats are from {values.min():.4g} to {values.max():.4g}, but only 0..1 has a standard conversion"
        )
    scaled = np.floor(values.clip(0, 1) * 255 + 0.5).astype(np.int64)
    _require_visible(values, scaled, "0..1")
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        scaled = 255 - scaled
    return _grey(scaled), "float grey scaled from 0..1 to 8 bits"


def _require_visible(values: Any, scaled: Any, meant: str) -> None:
    if values.min() != values.max() and scaled.max() <= _DARK:
        raise RefusedError(
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
        raise RefusedError("its ICC profile does not fit CMYK") from error
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
