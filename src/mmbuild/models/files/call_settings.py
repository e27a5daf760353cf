"""Settings in a tokenizer's files that transformers' processors apply to every call.

``ProcessorMixin._merge_kwargs`` (transformers 5.10 to 5.17) takes defaults for calls of the tokenizer and the image
processor from what the tokenizer was created with: the content of tokenizer_config.json, and ``truncation`` and
``padding`` of tokenizer.json. They are left behind by programs that saved a tokenizer after using it. Engines do not
apply them, so files in which they would change tokens or pixels are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mmbuild.models.errors import ModelFilesError
from mmbuild.models.files.small_files import display, read_json

_CONFIG, _TOKENIZER = "tokenizer_config.json", "tokenizer.json"


def _is_true(value: Any) -> bool:
    return value is True


def _is_stated(value: Any) -> bool:
    return value is not None


_TEXT: Mapping[str, Callable[[Any], bool]] = {
    "truncation": lambda value: value not in (None, False, "do_not_truncate"),
    "padding": lambda value: value == "max_length",
    "pad_to_multiple_of": _is_stated,
    "split_special_tokens": _is_true,
    "is_split_into_words": _is_true,
    "return_overflowing_tokens": _is_true,
    "text_pair": _is_stated,
}
"""Setting of a call of the tokenizer -> whether a value changes ids; ``max_length`` depends on the model."""

_IMAGES = (
    "do_resize", "size", "default_to_square", "crop_size", "resample", "do_rescale", "rescale_factor", "do_normalize",
    "image_mean", "image_std", "do_pad", "pad_size", "do_center_crop",
)  # fmt: skip
"""Settings of a call of the image processor."""


def require_none(directory: Path, positions: int) -> None:
    """Check that no setting in the tokenizer's files would change what the model gets.

    Args:
        directory: Directory of the tokenizer's files.
        positions: Number of positions of the model; 0 if there is no limit. Cutting to this length changes nothing.

    Raises:
        ModelFilesError: MM753, there is such a setting.
        SmallFileError: MM731, a file is damaged.
    """
    for file, setting, value in _found(directory, positions):
        shown = repr(value) if isinstance(value, bool | int | float | str) else "..."
        raise ModelFilesError(
            f"`{setting}: {shown}` in `{display(file)}` would be applied by transformers to every question, and "
            "engines do not apply it",
            code="MM753",
            hint="remove the key: it was left behind by a program that saved the tokenizer after using it"
            if file.name == _CONFIG
            else f"set `{setting.partition('.')[0]}` to null: a program that used the tokenizer left it behind",
        )


def _found(directory: Path, positions: int) -> Iterator[tuple[Path, str, Any]]:
    def cuts(length: Any) -> bool:
        return (
            isinstance(length, int) and not isinstance(length, bool) and (length < positions or not positions)
        )

    file = directory / _CONFIG
    stated = read_json(file) if file.is_file() else {}
    if cuts(stated.get("max_length")):
        yield file, "max_length", stated["max_length"]
    for name, changes in _TEXT.items():
        if changes(stated.get(name)):
            yield file, name, stated[name]
    for name in _IMAGES:
        if name in stated:  # null too: it takes the image processor's own value away
            yield file, name, stated[name]
    file = directory / _TOKENIZER
    saved = read_json(file) if file.is_file() else {}
    for section, key in (("truncation", "max_length"), ("padding", "pad_to_multiple_of")):
        value = saved.get(section)
        length = value.get(key) if isinstance(value, Mapping) else None
        if cuts(length) if key == "max_length" else length:
            yield file, f"{section}.{key}", length
