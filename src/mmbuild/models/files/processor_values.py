"""Settings of image processors with which transformers (5.10 to 5.17, Pillow backend) fails on every image."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mmbuild.models.files.transformers_names import transformers_names

_CHANNELS = 3
_OFF = "`null` is a value of its own there, and transformers does not take its default for it"
_SIZE = "a size is a whole number of pixels, or names such numbers"
# Sets of keys that transformers accepts in a size, whether it is used or not.
_FORMS = (
    {"shortest_edge"},
    {"shortest_edge", "longest_edge"},
    {"longest_edge"},
    {"height", "width"},
    {"max_height", "max_width"},
    {"min_pixels", "max_pixels"},
)
# Sets of sides that transformers resizes to.
_RESIZED = (("shortest_edge",), ("height", "width"), ("max_height", "max_width"))
_FILTERS = 6  # of Pillow's Resampling; newer releases have more


def problems(settings: Mapping[str, Any], *, crops: bool, pages: bool) -> Iterator[tuple[str, str]]:
    """Settings that cannot be used, each with the reason.

    Args:
        settings: The image processor.
        crops: Whether its class crops by default.
        pages: Whether its class fits pages into a size and fills them up to it.
    """
    defaults = {"do_center_crop": crops}
    for key in ("size", "crop_size", "pad_size"):
        if settings.get(key) is not None and not _has_form(settings[key]):
            yield key, _FORM
    if settings.get("input_data_format") not in (None, "channels_last"):
        yield (
            "input_data_format",
            "pictures have their channels last, and transformers would fail on every one",
        )
    if settings.get("do_center_crop") and not crops and settings.get("crop_size") is None:
        yield "do_center_crop", "there is no `crop_size`"
    if pages and not settings.get("do_thumbnail", True) and settings.get("do_pad", True):
        yield "do_thumbnail", "pages larger than `size` cannot be filled up to it"
    for key, switch in _NEEDED:
        if key in settings and settings.get(switch, defaults.get(switch, True)):
            problem = unusable(key, settings[key])
            if problem is not None:
                yield key, problem


def unusable(key: str, value: Any) -> str | None:
    """Why a setting that is needed cannot be used; None if it can be."""
    return _OFF if value is None else _CHECKS[key](value)


def class_problems(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Settings with which transformers finds no class, cannot create it, or finds one of other models."""
    if "backend" in settings:
        yield (
            "backend",
            "transformers cannot load an image processor with this key, and chooses the backend itself",
        )
    for key in ("image_processor_type", "feature_extractor_type"):
        stated = settings.get(key)
        if stated is None:
            continue
        if not isinstance(stated, str):
            yield key, "it must be the name of a class"
        elif key == "image_processor_type" and stated.endswith(_OLD):
            yield (
                key,
                f"transformers knows this name only as `feature_extractor_type`; it is {_new(stated)} here",
            )
        elif stated.startswith(_TILES):
            yield key, "it cuts pictures into tiles, and the model's tower takes whole pictures"
        elif not _is_known(_new(stated)):
            yield key, "transformers has no such class"
        return  # the second is only read without the first


_TILES = ("LlavaNext", "LlavaOnevision")  # classes of LLaVA's successors
_OLD, _FAST, _PIL = "FeatureExtractor", "Fast", "Pil"
_USUAL = frozenset(f"{name}ImageProcessor" for name in ("CLIP", "Llava", "Siglip", "Blip", "Nougat"))


def _new(name: str) -> str:
    return name.replace(_OLD, "ImageProcessor")


def _is_known(name: str) -> bool:
    plain = name.removesuffix(_FAST).removesuffix(_PIL)
    if plain in _USUAL:
        return True
    names = transformers_names()
    if names is None:
        return True
    return plain.endswith("ImageProcessor") and not names.isdisjoint({plain, plain + _PIL, plain + _FAST})


_FORM = (
    "transformers accepts a whole number, two of them, or keys that are exactly `shortest_edge`, `shortest_edge` and "
    "`longest_edge`, `height` and `width`, or `max_height` and `max_width`"
)


def _has_form(value: Any) -> bool:
    """Whether transformers can load this size."""
    if isinstance(value, list):
        return len(value) >= 2
    return set(value) in _FORMS if isinstance(value, dict) else isinstance(value, int)


def _size(value: Any) -> str | None:
    if isinstance(value, list):
        return None if len(value) >= 2 and all(map(_is_whole, value[:2])) else _SIZE
    if not isinstance(value, dict):
        return None if _is_whole(value) else _SIZE
    named = {key: side for key, side in value.items() if side is not None}
    if not named or not all(map(_is_whole, named.values())):
        return _SIZE
    if not any(all(side in named for side in sides) for sides in _RESIZED):
        return "it needs `shortest_edge`, or `height` and `width`, or `max_height` and `max_width`"
    return None


def _crop_size(value: Any) -> str | None:
    if isinstance(value, list):
        return None if len(value) >= 2 and all(map(_is_number, value[:2])) else _SIZE
    if not isinstance(value, dict):
        return None if _is_whole(value) else _SIZE
    sides = [value.get("height"), value.get("width")]
    return None if all(map(_is_number, sides)) else "it needs `height` and `width`, as numbers of pixels"


def _resample(value: Any) -> str | None:
    # Transformers takes its default for what is no whole number.
    if type(value) is not int or 0 <= value < _FILTERS or value in _newer_filters():
        return None
    return f"Pillow has no such filter; its filters are 0 to {_FILTERS - 1}"


def _newer_filters() -> frozenset[int]:
    try:
        from PIL.Image import Resampling
    except ImportError:
        return frozenset()
    return frozenset(map(int, Resampling))


def _rescale_factor(value: Any) -> str | None:
    inner = value[0] if isinstance(value, list) and len(value) == 1 else value
    return None if _is_number(inner) else "it must be a number"


def _channels(value: Any) -> str | None:
    if _is_number(value):
        return None
    if not isinstance(value, list):
        return "it must be a number, or one for each channel"
    if len(value) != _CHANNELS:
        return f"pictures have {_CHANNELS} channels"
    return None if all(map(_reads_as_number, value)) else "its values must be numbers"


def _divisors(value: Any) -> str | None:
    problem = _channels(value)
    if problem is not None:
        return problem
    numbers = map(float, value if isinstance(value, list) else [value])
    return None if all(abs(number) > _SMALLEST for number in numbers) else "pixels are divided by it"


_SMALLEST = 1e-37  # the quotient is not infinite in float32


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and value > 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and _reads_as_number(value)


def _reads_as_number(value: Any) -> bool:
    """Whether NumPy takes ``value`` for a number, as which it also takes texts such as "0.5"."""
    try:
        return isinstance(value, int | float | str) and math.isfinite(float(value))
    except (ValueError, OverflowError):
        return False


_CHECKS: Mapping[str, Callable[[Any], str | None]] = {
    "size": _size,
    "resample": _resample,
    "rescale_factor": _rescale_factor,
    "image_mean": _channels,
    "image_std": _divisors,
    "crop_size": _crop_size,
}
# Settings that preprocessing needs, and the switch that it needs them for.
_NEEDED = (
    ("size", "do_resize"),
    ("resample", "do_resize"),
    ("rescale_factor", "do_rescale"),
    ("image_mean", "do_normalize"),
    ("image_std", "do_normalize"),
    ("crop_size", "do_center_crop"),
)
