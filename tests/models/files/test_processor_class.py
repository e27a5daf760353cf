"""A class of processors that transformers does not have is refused before the tokenizer alone is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoProcessor

from mmbuild.models.errors import EngineError, ModelFilesError
from mmbuild.models.families.shared.hugging_face import saved_processor
from mmbuild.models.files.processor_class import require_processor_class
from support.errors import refused
from support.models.directories import save_llava

FILES = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llava(tmp_path_factory.mktemp("llava") / "m")


def named(model: Path, out: Path, file: str, value: Any) -> Path:
    """The model's small files, of which only ``file`` names a class."""
    out.mkdir()
    for path in model.iterdir():
        if path.suffix != ".safetensors":
            (out / path.name).write_bytes(path.read_bytes())
    whole = json.loads((out / FILES[0]).read_text())
    (out / FILES[1]).write_text(json.dumps(whole.pop("image_processor")))
    (out / FILES[0]).write_text(json.dumps(whole))
    for name in FILES:
        content = json.loads((out / name).read_text())
        content.pop("processor_class", None)
        (out / name).write_text(json.dumps(content | ({"processor_class": value} if name == file else {})))
    return out


def loads_both(directory: Path) -> bool:
    """Whether transformers' own class has a tokenizer and an image processor."""
    try:
        found = AutoProcessor.from_pretrained(directory, backend="pil")
    except Exception:
        return False
    return hasattr(found, "tokenizer") and hasattr(found, "image_processor")


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(
    "value",
    [
        "OwnLlavaProcessor",
        "LlavaProcess",
        "LlavaConfig",
        "CLIPImageProcessor",
        "LlavaOnevisionVideoProcessor",
        "LlamaTokenizerFast",
        "",
        7,
        ["LlavaProcessor"],
    ],
)
def test_another_class_is_refused(model: Path, tmp_path: Path, file: str, value: Any) -> None:
    directory = named(model, tmp_path / "m", file, value)
    assert not loads_both(directory)
    error = refused(ModelFilesError, "MM744", require_processor_class, directory)
    assert f"/{file}` is {json.dumps(value)}" in error.message
    refused(EngineError, "MM516", saved_processor, directory)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("value", ["LlavaProcessor", "CLIPProcessor", "LlavaNextProcessor", None])
def test_a_class_of_transformers_is_not(model: Path, tmp_path: Path, file: str, value: str | None) -> None:
    directory = named(model, tmp_path / "m", file, value)
    assert loads_both(directory)
    require_processor_class(directory)
    saved_processor(directory)


def test_a_nested_image_processor_is_read_instead_of_a_file_of_its_own(model: Path, tmp_path: Path) -> None:
    directory = named(model, tmp_path / "m", FILES[1], "OwnProcessor")
    whole = json.loads((directory / FILES[0]).read_text())
    images = json.loads((directory / FILES[1]).read_text())
    (directory / FILES[0]).write_text(json.dumps({**whole, "image_processor": images}))
    assert not loads_both(directory)
    refused(ModelFilesError, "MM744", require_processor_class, directory)
    del images["processor_class"]
    (directory / FILES[0]).write_text(json.dumps({**whole, "image_processor": images}))
    assert loads_both(directory)
    require_processor_class(directory)


def test_only_the_first_name_counts_as_in_transformers(model: Path, tmp_path: Path) -> None:
    directory = named(model, tmp_path / "m", FILES[0], "LlavaProcessor")
    later = json.loads((directory / FILES[2]).read_text()) | {"processor_class": "OwnProcessor"}
    (directory / FILES[2]).write_text(json.dumps(later))
    assert loads_both(directory)
    require_processor_class(directory)
