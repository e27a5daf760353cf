"""Image processor classes of transformers (4.26 to 5.17): their defaults, and the size of what they return."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Size = tuple[int, int]
"""Height and width, pixels."""


@dataclass(frozen=True, slots=True)
class ImageClass:
    """Defaults of an image processor class.

    Attributes:
        size: Its ``size``.
        square: Whether a single number means both sides; otherwise it means the shorter one.
        crop: Its ``crop_size``; None if it does not crop.
        pads_first: Whether padding makes images square before all other steps; otherwise it comes last.
    """

    size: Mapping[str, int]
    square: bool = True
    crop: int | None = None
    pads_first: bool = False


# Pages are scaled to fit `size`, keeping their aspect ratio, and padded to it.
PAGES = ImageClass({"height": 896, "width": 672})
_CLASSES: Mapping[str, ImageClass] = {
    "CLIP": ImageClass({"shortest_edge": 224}, square=False, crop=224),
    "Llava": ImageClass({"shortest_edge": 224}, square=False, crop=224, pads_first=True),
    "Siglip": ImageClass({"height": 224, "width": 224}, square=False),
    "Blip": ImageClass({"height": 384, "width": 384}),
    "Nougat": PAGES,
}
_ENDINGS = ("ImageProcessor", "ImageProcessorFast", "ImageProcessorPil", "FeatureExtractor")


def image_class(settings: Mapping[str, Any], default: str) -> ImageClass | None:
    """The class that ``settings`` name, or ``default`` if they name none; None if it is not one of these classes."""
    stated = settings.get("image_processor_type") or settings.get("feature_extractor_type")
    if stated is None:
        return _CLASSES[default]
    return next((_CLASSES[name] for name in _CLASSES for end in _ENDINGS if stated == name + end), None)


def output_size(settings: Mapping[str, Any], kind: ImageClass, *, square: bool) -> Size | str:
    """Height and width of every processed image, or why they vary.

    Args:
        settings: Keys of the image processor.
        kind: Its class.
        square: Whether images are square before the image processor.
    """

    def on(name: str, default: bool = False) -> bool:
        return bool(settings.get(name, default))  # null is off, as in transformers

    size = sides(settings.get("size"), kind.square) or kind.size
    if kind is PAGES:
        return (on("do_pad", True) and fixed_size(size)) or "`do_pad` is false"
    pads = on("do_pad")
    result: Size | str = "`do_resize` is false"
    if on("do_resize", True):
        result = _resized(size, square=square or (pads and kind.pads_first))
    if on("do_center_crop", kind.crop is not None):
        crop = sides(settings.get("crop_size"), True) or {"height": kind.crop, "width": kind.crop}
        result = fixed_size(whole_pixels(crop)) or "`crop_size` has no height and width"
    if pads and not kind.pads_first:
        result = fixed_size(sides(settings.get("pad_size"), True) or {}) or result
    return result


def _resized(size: Mapping[str, Any], *, square: bool) -> Size | str:
    fixed = fixed_size(size)
    if fixed is not None and "shortest_edge" not in size:
        return fixed
    edge = size.get("shortest_edge")
    if isinstance(edge, int) and square:
        return edge, edge
    return f"`size` is {_size_text(size)} and nothing is cropped"


def fixed_size(size: Mapping[str, Any]) -> Size | None:
    """Height and width of a size that has both."""
    height, width = size.get("height"), size.get("width")
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def whole_pixels(crop: Mapping[str, Any]) -> Mapping[str, Any]:
    """The whole pixels of a crop; transformers takes fractions."""
    return {key: int(side) for key, side in crop.items() if isinstance(side, int | float)}


def sides(value: object, square: bool) -> Mapping[str, Any] | None:
    """A size in any of its forms as a mapping; None if it is absent. ``square``: a single number means both sides."""
    if isinstance(value, Mapping):
        return {key: side for key, side in value.items() if side is not None}
    if isinstance(value, int):
        return {"height": value, "width": value} if square else {"shortest_edge": value}
    if isinstance(value, list) and len(value) >= 2:
        return {"height": value[0], "width": value[1]}
    return None


def _size_text(size: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in size.items())
