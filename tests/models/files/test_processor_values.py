"""Settings of image processors are refused if transformers fails with them, and accepted if it does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from mmbuild.models.errors import ModelFilesError
from mmbuild.models.families.vila.processor import shaped
from mmbuild.models.files.processor_config import (
    read_image_processor,
    require_image_size,
    require_squaring,
    require_usable,
)
from mmbuild.models.files.small_files import SmallFileError
from mmbuild.models.files.vocabulary import _METHODS, read_tokenizer

VALUES: dict[str, list[Any]] = {
    "size": [
        64,
        [64, 64],
        [64, 64, 3],
        [64],
        [64.0, 64],
        0,
        -5,
        "64",
        {"height": 64},
        {"height": 0, "width": 64},
        {"shortest_edge": 64, "longest_edge": 90},
        {"longest_edge": 64},
        {"max_height": 64, "max_width": 64},
        {"shortest_edge": "64"},
        {"shortest_edge": 64.0},
        {"shortest_edge": 64, "height": 64, "width": 64},
        {"shortest_edge": None, "height": 64, "width": 64},
        {"height": 64, "width": 64, "longest_edge": 90},
        {"height": 64, "width": 64, "depth": 3},
    ],
    "pad_size": [64, [64, 64], {"height": 64, "width": 64}, {"height": 64}, [64], 64.0, "64", {}],
    "input_data_format": ["channels_first", "channels_last", "none", "x"],
    "crop_size": [
        64,
        [64, 64],
        [64.0, 64.0],
        [64],
        [],
        "64",
        64.0,
        {},
        {"height": 64.0, "width": 64.0},
        {"height": 64.5, "width": 64},
        {"height": 64},
        {"shortest_edge": 64},
        {"height": 64, "width": 64, "depth": 3},
    ],
    "resample": [-1, 0, 5, 99, 2.5, "bicubic", True],
    "rescale_factor": ["1/255", "0.1", 0, 1, [0.1], [0.1, 0.1, 0.1], {}],
    "image_mean": [
        0.5,
        1,
        True,
        ["a", "b", "c"],
        ["0.5", "0.5", "0.5"],
        [0.5],
        [0.5] * 4,
        [],
        {},
        [[0.5]] * 3,
    ],
    "image_std": [
        0.5,
        True,
        ["a", "b", "c"],
        "1",
        [0.5] * 4,
        {},
        0,
        [0.0] * 3,
        [1, 0, 1],
        [1, 1e-45, 1],
        1e-30,
        -1,
    ],
    "backend": ["pil", "torchvision", None],
    "image_processor_type": [
        "CLIPImageProcessorFast",
        "CLIPImageProcessorPil",
        "ViTImageProcessor",
        "CLIPFeatureExtractor",
        "NoSuchImageProcessor",
        "clip",
        "CLIPModel",
        5,
    ],
}


def saved(directory: Path, **settings: Any) -> Path:
    directory.mkdir(exist_ok=True)
    content = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 64}, "crop_size": 64}
    (directory / "preprocessor_config.json").write_text(json.dumps(content | settings))
    return directory


def works(directory: Path) -> bool:
    """Whether transformers prepares a picture."""
    try:
        processor = AutoImageProcessor.from_pretrained(directory, backend="pil")
        pixels = processor(Image.new("RGB", (90, 70), (200, 10, 30)), return_tensors="pt")["pixel_values"]
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError):
        return False
    return bool(torch.isfinite(pixels).all())


def refusal(directory: Path) -> str | None:
    found = read_image_processor(directory)
    assert found is not None
    try:
        require_usable(found, "CLIP")
    except ModelFilesError as error:
        return f"{error.code} {error.message}"
    return None


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key, values in VALUES.items() for value in values]
)
def test_a_value_is_refused_exactly_if_transformers_fails(key: str, value: Any, tmp_path: Path) -> None:
    directory = saved(tmp_path, **{key: value})
    message = refusal(directory)
    assert (message is None) == works(directory), message
    if message is not None:
        assert message.startswith(f"MM744 `{key}` in")


@pytest.mark.parametrize("name", ["LlavaNextImageProcessor", "LlavaOnevisionImageProcessorFast"])
def test_classes_that_cut_pictures_into_tiles_are_refused(name: str, tmp_path: Path) -> None:
    directory = saved(tmp_path, image_processor_type=name)
    processor = AutoImageProcessor.from_pretrained(directory, backend="pil")
    pixels = processor(Image.new("RGB", (90, 70)), return_tensors="pt")["pixel_values"]
    assert pixels.dim() == 5  # of each picture, several tiles
    assert "tiles" in (refusal(directory) or "")


@pytest.mark.parametrize(
    "settings",
    [
        {"image_processor_type": "CLIPImageProcessor", "do_resize": False, "size": [64]},
        {"image_processor_type": "CLIPImageProcessor", "do_center_crop": False, "crop_size": {"height": 64}},
        {
            "image_processor_type": "CLIPImageProcessor",
            "do_center_crop": False,
            "crop_size": {"height": 8, "width": 8},
        },
        {"image_processor_type": "BlipImageProcessor", "crop_size": 64.0, "size": 64},
        {"image_processor_type": "BlipImageProcessor", "crop_size": None, "size": 64, "do_center_crop": True},
        {
            "image_processor_type": "BlipImageProcessor",
            "crop_size": None,
            "size": 64,
            "do_center_crop": False,
        },
        {"image_processor_type": "NougatImageProcessor", "size": [64, 64], "do_thumbnail": False},
        {"image_processor_type": "NougatImageProcessor", "size": [64, 64], "do_thumbnail": None},
        {"image_processor_type": "NougatImageProcessor", "size": [64, 64], "do_thumbnail": True},
        {
            "image_processor_type": "NougatImageProcessor",
            "size": [64, 64],
            "crop_size": None,
            "do_center_crop": True,
        },
    ],
    ids=str,
)
def test_settings_of_other_classes_and_of_what_is_off(settings: dict[str, Any], tmp_path: Path) -> None:
    directory = saved(tmp_path, **settings)
    assert (refusal(directory) is None) == works(directory)


def test_an_older_key_names_a_class_too(tmp_path: Path) -> None:
    for name in ("CLIPFeatureExtractor", "CLIPImageProcessor", "NoSuchFeatureExtractor"):
        directory = saved(tmp_path, image_processor_type=None, feature_extractor_type=name)
        assert (refusal(directory) is None) == works(directory), name


def test_what_is_turned_off_may_have_any_value(tmp_path: Path) -> None:
    directory = saved(
        tmp_path, do_normalize=False, image_mean=["a"], do_rescale=False, rescale_factor="1/255"
    )
    assert works(directory)
    assert refusal(directory) is None


def test_a_crop_in_fractions_has_whole_pixels(tmp_path: Path) -> None:
    found = read_image_processor(saved(tmp_path, crop_size={"height": 64.5, "width": 64.0}))
    assert found is not None
    require_image_size(found, "CLIP", (64, 64), "vision_config.image_size")
    with pytest.raises(ModelFilesError, match="gives 64 x 64 pixels"):
        require_image_size(found, "CLIP", (65, 64), "vision_config.image_size")


# VILA makes pictures square before the image processor.


@pytest.mark.parametrize("mean", [0.5, [0.5, 0.5, 0.5], ["0.5", "0.5", "0.5"]])
def test_padding_takes_the_mean_in_each_form_that_transformers_takes(mean: Any, tmp_path: Path) -> None:
    directory = saved(tmp_path, image_mean=mean)
    found, loaded = (
        read_image_processor(directory),
        AutoImageProcessor.from_pretrained(directory, backend="pil"),
    )
    assert found is not None
    require_squaring(found, "CLIP", "pad")
    square = shaped(Image.new("RGB", (4, 2), "white"), loaded, "pad")
    assert square.size == (4, 4)
    assert square.getpixel((0, 0)) == (127, 127, 127)
    assert square.getpixel((0, 1)) == (255, 255, 255)


@pytest.mark.parametrize("mean", [None, ["a", "b", "c"], [0.5], "x"])
def test_padding_needs_a_colour_also_where_nothing_is_normalized(mean: Any, tmp_path: Path) -> None:
    found = read_image_processor(saved(tmp_path, do_normalize=False, image_mean=mean))
    assert found is not None
    require_usable(found, "CLIP")
    with pytest.raises(ModelFilesError, match="images are padded with this colour, and") as raised:
        require_squaring(found, "CLIP", "pad")
    assert raised.value.code == "MM744"


@pytest.mark.parametrize(
    ("settings", "blamed"),
    [
        ({}, None),
        ({"crop_size": {"height": 64.0, "width": 64.0}}, None),
        ({"crop_size": {"shortest_edge": 64}, "do_center_crop": False}, "crop_size"),
        ({"crop_size": None, "do_center_crop": False}, "size"),
        ({"crop_size": None, "do_center_crop": False, "size": {"height": 64, "width": 64}}, None),
    ],
)
def test_resizing_needs_height_and_width(
    settings: dict[str, Any], blamed: str | None, tmp_path: Path
) -> None:
    directory = saved(tmp_path, **settings)
    found, loaded = (
        read_image_processor(directory),
        AutoImageProcessor.from_pretrained(directory, backend="pil"),
    )
    assert found is not None
    picture = Image.new("RGB", (4, 2))
    if blamed is None:
        require_squaring(found, "CLIP", "resize")
        assert shaped(picture, loaded, "resize").size == (64, 64)
        return
    with pytest.raises((KeyError, TypeError)):
        shaped(picture, loaded, "resize")
    with pytest.raises(ModelFilesError, match=f"`{blamed}` in .* height and width, and it has none"):
        require_squaring(found, "CLIP", "resize")


@pytest.mark.parametrize("name", _METHODS)
def test_a_tokenizer_setting_named_like_a_method_is_refused(name: str, tmp_path: Path) -> None:
    shapes = Path(__file__).parents[3] / "examples" / "models" / "llava-shapes"
    (tmp_path / "tokenizer.json").write_bytes((shapes / "tokenizer.json").read_bytes())
    config = json.loads((shapes / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {name: False}))
    with pytest.raises((AttributeError, TypeError)):
        AutoTokenizer.from_pretrained(tmp_path)
    with pytest.raises(SmallFileError, match=f"`{name}` in .* is false") as raised:
        read_tokenizer(tmp_path)
    assert raised.value.code == "MM731"
