"""A small project on disk: a recipe next to a model directory, and helpers to load and inspect it."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmbuild.base.diagnostics import Diagnostic
from mmbuild.pipeline.load import LoadResult, load_recipes

CONFIG: dict[str, Any] = {
    "model_type": "llava",
    "image_token_index": 99,
    "text_config": {
        "model_type": "llama",
        "vocab_size": 101,
        "hidden_size": 64,
        "intermediate_size": 192,
        "num_hidden_layers": 2,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "max_position_embeddings": 256,
        "eos_token_id": 2,
    },
    "vision_config": {
        "model_type": "clip_vision_model",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 28,
        "patch_size": 7,
    },
}
FEATURES = 16  # (28 / 7)^2

RECIPE = """\
version: 1
name: small
model:
  family: llava
  source: model
engine:
  backend: torch
  dtype: float32
  quantization: int8
  max_batch_size: 2
  max_images_per_prompt: 3
  max_input_len: 128
  max_output_len: 64
"""


def write_project(directory: Path, recipe: str = RECIPE, config: Mapping[str, Any] = CONFIG) -> Path:
    """Write ``mmbuild.yaml``, ``model/config.json`` and ``recipe.yaml``; return the recipe's path."""
    model = directory / "model"
    model.mkdir(parents=True, exist_ok=True)
    (directory / "mmbuild.yaml").touch()
    (model / "config.json").write_text(json.dumps(config), encoding="utf-8")
    path = directory / "recipe.yaml"
    path.write_text(recipe, encoding="utf-8")
    return path


PARTS: dict[str, str] = {
    "pytorch_model.bin": "PK\x03\x04",
    "tokenizer.json": json.dumps(
        {
            "model": {
                "type": "WordLevel",
                "vocab": {f"w{number}": number for number in range(99)},
                "unk_token": "<unk>",
            },
            "added_tokens": [
                {"id": 99, "content": "<image>", "special": True}
                | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
            ],
        }
    ),
    "preprocessor_config.json": json.dumps({"size": 28, "crop_size": 28}),
}
"""Files that a model must have next to ``config.json``. They fit :data:`CONFIG`; plans look no further."""


def write_parts(model: Path) -> None:
    """Write :data:`PARTS`."""
    model.mkdir(parents=True, exist_ok=True)
    for name, text in PARTS.items():
        (model / name).write_text(text, encoding="utf-8")


def png(number: int = 0) -> bytes:
    """A picture of one pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    pixel = zlib.compress(bytes([0, number]))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixel) + chunk(b"IEND", b"")


def load(directory: Path, recipe: str = RECIPE, *overrides: str, **options: Any) -> LoadResult:
    """Write ``recipe`` into ``directory`` and load it."""
    config = options.pop("config", CONFIG)
    return load_recipes([write_project(directory, recipe, config)], overrides=overrides, **options)


def only(result: LoadResult) -> Diagnostic:
    """The one finding of ``result``."""
    assert len(result.diagnostics) == 1, [item.message for item in result.diagnostics]
    return result.diagnostics[0]


def codes(result: LoadResult) -> list[str]:
    """Codes of all findings, sorted."""
    return sorted(item.code for item in result.diagnostics)


def pointed(item: Diagnostic) -> str:
    """The characters that the caret underlines."""
    return item.excerpt[item.column - 1 : item.column - 1 + item.width]
