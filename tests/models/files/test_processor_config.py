"""The size of pictures is worked out from files as transformers' image processors give it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from mmbuild.models.errors import ModelFilesError
from mmbuild.models.files.processor_config import (
    ImageProcessor,
    Placeholders,
    read_image_processor,
    require_image_size,
    require_placeholders,
)
from support.examples import examples

CLASSES = {"CLIP": "CLIPImageProcessor", "Llava": "LlavaImageProcessor", "Siglip": "SiglipImageProcessor"} | {
    "Blip": "BlipImageProcessor",
    "Nougat": "NougatImageProcessor",
}
NUMBERS = st.integers(6, 20)
SIZES = st.one_of(
    NUMBERS,
    st.tuples(NUMBERS, NUMBERS).map(list),
    st.fixed_dictionaries({"height": NUMBERS, "width": NUMBERS}),
    st.fixed_dictionaries({"shortest_edge": NUMBERS}),
)
SQUARES = st.one_of(NUMBERS, st.fixed_dictionaries({"height": NUMBERS, "width": NUMBERS}))
SWITCH = st.sampled_from([True, False, None])
SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "size": SIZES,
        "crop_size": SQUARES,
        "do_resize": SWITCH,
        "do_center_crop": SWITCH,
        "do_pad": SWITCH,
    },
)


def picture(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(height).integers(0, 255, (height, width, 3), dtype=np.uint8))


def theirs(directory: Path, pictures: list[Image.Image]) -> set[tuple[int, ...]]:
    """Shapes that transformers gives the pictures, each on its own."""
    processor = AutoImageProcessor.from_pretrained(directory, backend="pil")
    made = [np.asarray(processor(one, return_tensors="np")["pixel_values"]) for one in pictures]
    return {pixels.shape[-2:] for pixels in made}


@settings(max_examples=examples(120), deadline=None)
@given(kind=st.sampled_from(sorted(CLASSES)), said=SETTINGS, square=st.booleans())
def test_the_size_of_pictures_is_transformers_own(
    tmp_path_factory: pytest.TempPathFactory, kind: str, said: dict[str, Any], square: bool
) -> None:
    directory = tmp_path_factory.mktemp("processor")
    (directory / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": CLASSES[kind], **said})
    )
    square = square and kind != "Nougat"  # pages are not
    shapes = [(30, 30), (47, 47)] if square else [(30, 50), (51, 31), (40, 40)]
    try:
        found = theirs(directory, [picture(*shape) for shape in shapes])
    except (ValueError, TypeError, KeyError):
        return  # settings that transformers does not take either
    read = read_image_processor(directory)
    assert read is not None
    if len(found) == 1:
        (size,) = found
        require_image_size(read, kind, (size[0], size[1]), "image_size", square=square)
        with pytest.raises(ModelFilesError, match=f"{size[0]} x {size[1]} pixels"):
            require_image_size(read, kind, (size[0] + 1, size[1]), "image_size", square=square)
    else:
        with pytest.raises(ModelFilesError, match="pictures different sizes"):
            require_image_size(read, kind, (14, 14), "image_size", square=square)


def test_the_nested_form_wins(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text('{"size": 1}')
    (tmp_path / "processor_config.json").write_text('{"image_processor": {"size": 2}}')
    found = read_image_processor(tmp_path)
    assert found == ImageProcessor({"size": 2}, tmp_path / "processor_config.json")
    (tmp_path / "processor_config.json").write_text('{"patch_size": 14}')
    found = read_image_processor(tmp_path)
    assert found == ImageProcessor({"size": 1}, tmp_path / "preprocessor_config.json")


@pytest.mark.parametrize(
    "suffix", ["ImageProcessor", "ImageProcessorFast", "ImageProcessorPil", "FeatureExtractor"]
)
def test_a_class_is_known_under_all_its_names(suffix: str) -> None:
    said = {"size": 28, "crop_size": 28, "image_processor_type": f"CLIP{suffix}"}
    found = ImageProcessor(said, Path("preprocessor_config.json"))
    require_image_size(found, "Blip", (28, 28), "image_size")
    with pytest.raises(ModelFilesError, match="28 x 28"):
        require_image_size(found, "Blip", (14, 28), "image_size")


COUNTED = Placeholders(side=(336, 336), patch=14, strategy="default", additional=1)
KEYS = {
    "patch_size": st.sampled_from([14, 7, 16]),
    "num_additional_image_tokens": st.sampled_from([0, 1, 2]),
    "vision_feature_select_strategy": st.sampled_from(["default", "full"]),
}


@given(said=st.fixed_dictionaries({}, optional=KEYS), features=st.sampled_from([575, 576, 577]))
def test_placeholders_are_counted_as_llava_s_processor_counts_them(
    said: dict[str, Any], features: int
) -> None:
    from transformers import LlavaProcessor

    keys = {
        "patch_size": 14,
        "num_additional_image_tokens": 1,
        "vision_feature_select_strategy": "default",
    } | said
    processor = LlavaProcessor.__new__(LlavaProcessor)
    for key, value in keys.items():
        setattr(processor, key, value)
    processor.image_token = "."
    count = len(processor.replace_image_token({"pixel_values": np.zeros((1, 3, 336, 336))}, 0))
    if count == features:
        require_placeholders(said, Path("p.json"), COUNTED, features)
    elif said:
        with pytest.raises(ModelFilesError, match=f"gives {count} placeholders") as caught:
            require_placeholders(said, Path("p.json"), COUNTED, features)
        assert f"{features} features" in caught.value.message


@pytest.mark.parametrize("value", [0, -1, "14", {"height": 14}, [14, 14]])
def test_a_patch_size_that_is_not_a_number_is_rejected(value: object) -> None:
    with pytest.raises(ModelFilesError, match="gives no number of placeholders"):
        require_placeholders({"patch_size": value}, Path("p.json"), COUNTED, 576)
