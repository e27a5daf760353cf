"""Settings of a tokenizer are refused exactly where transformers cannot load it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from mmbuild.models.files.small_files import SmallFileError
from mmbuild.models.files.vocabulary import read_tokenizer
from support.errors import refused
from support.models.directories import save_llava

PLAIN = {"content": "<s>", "lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
IMAGE = {**PLAIN, "content": "<image>"}
ADDED = {"__type": "AddedToken", **PLAIN}
TOKENS = [
    None, True, 1, 1.5, "", "<s>", "<new>", [], ["<s>"], {}, PLAIN, ADDED, {**ADDED, "special": True},
    {**ADDED, "lstrip": 0}, {**ADDED, "rstrip": None}, {**ADDED, "special": "yes"},
    {**ADDED, "content": 7}, {**ADDED, "other": 1},
]  # fmt: skip
CONFIG: dict[str, list[Any]] = {
    "bos_token": TOKENS,
    "unk_token": TOKENS,
    "mask_token": TOKENS,
    "image_token": TOKENS,
    "extra_special_tokens": [
        None, True, 1, "<a>", [], ["<a>"], [1], [None], [PLAIN], [ADDED], {}, {"image_token": "<image>"},
        {"image_token": 1}, {"image_token": None}, {"image_token": PLAIN}, {"image_token": ADDED},
    ],
    "model_max_length": [None, True, 1, -1, 1.5, 1e30, 10**30, "2048", [], {}],
    "tokenizer_class": [None, True, 1, "", [], {}, "LlamaTokenizer", "OwnTokenizer"],
    "padding_side": [None, "left", "right", "up", 1],
    "truncation_side": [None, "left", "right", "up", 1],
    "split_special_tokens": [None, False, 1],
    "added_tokens_decoder": [
        None, [], 1, {}, {"300": IMAGE}, {"300": {"content": "<image>"}}, {"300": "<image>"}, {"a": IMAGE},
        {"300": {**PLAIN, "content": "<image>", "lstrip": None}}, {"300": {**PLAIN, "content": 3}},
    ],
    "clean_up_tokenization_spaces": [None, 1, "a"],
    "add_bos_token": [None, 1, "a"],
    "legacy": [None, 1, "a"],
    "sp_model_kwargs": [None, 1, {}],
    "name_or_path": [None, 1],
}  # fmt: skip
NAMES: dict[str, list[Any]] = {
    "bos_token": [
        None, True, 1, "", "<s>", [], ["<s>"], PLAIN, ADDED, {**PLAIN, "lstrip": 0}, {**PLAIN, "special": None},
        {"content": "<s>"}, {**PLAIN, "content": 1},
    ],
    "additional_special_tokens": [None, [], ["<image>"], [PLAIN]],
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llava(tmp_path_factory.mktemp("llava") / "m")


def changed(model: Path, out: Path, name: str, key: str, value: Any) -> Path:
    out.mkdir()
    for file in model.glob("tokenizer*.json"):
        (out / file.name).write_bytes(file.read_bytes())
    path = out / name
    content = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**content, key: value}))
    return out


def loads(directory: Path) -> bool:
    try:
        AutoTokenizer.from_pretrained(directory)("a")
    except Exception:
        return False
    return True


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [("tokenizer_config.json", key, value) for key, values in CONFIG.items() for value in values]
    + [("special_tokens_map.json", key, value) for key, values in NAMES.items() for value in values],
)
def test_what_transformers_cannot_load_is_refused_and_nothing_else(
    model: Path, tmp_path: Path, file: str, key: str, value: Any
) -> None:
    directory = changed(model, tmp_path / "m", file, key, value)
    if loads(directory):
        assert read_tokenizer(directory) is not None
        return
    error = refused(SmallFileError, "MM731", read_tokenizer, directory)
    assert f"{file}" in error.message
    assert error.hint


def test_the_map_is_not_read_next_to_added_tokens_of_the_config(model: Path, tmp_path: Path) -> None:
    directory = changed(model, tmp_path / "m", "tokenizer_config.json", "added_tokens_decoder", {})
    (directory / "special_tokens_map.json").write_text('{"bos_token": 1}')
    assert loads(directory)
    assert read_tokenizer(directory) is not None
