"""Settings for calls in a tokenizer's files: what transformers' processor does with them, and what is refused."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from mmbuild.models.errors import ModelFilesError
from mmbuild.models.files.call_settings import require_none
from support.errors import refused

MODELS = Path(__file__).parents[3] / "examples" / "models"
QUESTION = "question: how many shapes ? answer:"
POSITIONS = 512

CHANGES = {
    "max_length": ("tokenizer_config.json", {"max_length": 19}),
    "truncation of the tokenizer": (
        "tokenizer.json",
        {"truncation": {"direction": "Right", "max_length": 19, "strategy": "LongestFirst", "stride": 0}},
    ),
    "image_mean": ("tokenizer_config.json", {"image_mean": [0.1, 0.9, 0.1]}),
    "size": ("tokenizer_config.json", {"size": {"height": 32, "width": 32}}),
}
NOTHING = {
    "null": {"max_length": None, "truncation": None, "pad_to_multiple_of": None},
    "as long as the model": {"max_length": POSITIONS},
    "words of tokenizers": {"truncation_side": "left", "padding_side": "left", "stride": 0, "padding": False},
    "off": {"truncation": "do_not_truncate", "split_special_tokens": False},
}


@pytest.fixture
def model(tmp_path):
    source = MODELS / "blip2-opt-shapes"
    for path in source.iterdir():
        if path.suffix != ".safetensors":
            shutil.copyfile(path, tmp_path / path.name)
    return tmp_path


def edit(path, changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def encoded(model):
    """Ids and pixels, by transformers alone."""
    from transformers import AutoProcessor

    picture = Image.new("RGB", (64, 64), "red")
    processor = AutoProcessor.from_pretrained(model, backend="pil")
    found = processor(text=QUESTION, images=picture, return_tensors="pt")
    return found["input_ids"].tolist(), found["pixel_values"].tolist()


@pytest.mark.parametrize("name", CHANGES)
def test_what_changes_transformers_inputs_is_refused(model, name):
    before = encoded(model)
    require_none(model, POSITIONS)
    file, changes = CHANGES[name]
    edit(model / file, changes)
    assert encoded(model) != before
    error = refused(ModelFilesError, "MM753", require_none, model, POSITIONS)
    assert f"`{next(iter(changes))}" in error.message
    assert file in error.message


@pytest.mark.parametrize("name", NOTHING)
def test_what_changes_nothing_is_accepted(model, name):
    before = encoded(model)
    edit(model / "tokenizer_config.json", NOTHING[name])
    assert encoded(model) == before
    require_none(model, POSITIONS)


@pytest.mark.parametrize(
    "changes",
    [
        {"truncation": True, "model_max_length": 10},
        {"padding": "max_length", "max_length": 600},
        {"pad_to_multiple_of": 8},
        {"split_special_tokens": True},
        {"do_resize": False},
        {"image_mean": None},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_other_settings_are_refused_too(model, changes):
    edit(model / "tokenizer_config.json", changes)
    error = refused(ModelFilesError, "MM753", require_none, model, POSITIONS)
    assert f"`{next(iter(changes))}:" in error.message


def test_a_model_without_a_limit_of_positions_refuses_any_length(model):
    edit(model / "tokenizer_config.json", {"max_length": 100_000})
    refused(ModelFilesError, "MM753", require_none, model, 0)
