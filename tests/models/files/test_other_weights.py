"""Weights in another layout than Hugging Face's are named, with what to use instead."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmbuild.models.checkpoint.hf_weights import weight_files
from mmbuild.models.errors import CheckpointError
from mmbuild.models.files.other_weights import hint_for
from mmbuild.models.sources.config import ConfigError, read_config
from support.errors import refused


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("llava-v1.5-7b-Q4_K_M.gguf", "llama.cpp"),
        ("ggml-model-q4_k.bin", "llama.cpp"),
        ("model.fp16.safetensors", "variant"),
        ("model.safetensors.fp16.index.json", None),
        ("pytorch_model.bf16.bin", "variant"),
        ("consolidated.00.pth", "layout of the model's authors"),
        ("flax_model.msgpack", "JAX"),
        ("tf_model.h5", "TensorFlow"),
        ("model.onnx", "exported"),
        ("model.pt", "training program"),
        ("Model.safetensors", "rename it to `model.safetensors`"),
        ("training_args.bin", None),
        ("mm_projector.bin", None),
        ("README.md", None),
    ],
)
def test_files_of_weights_are_told_by_their_names(name: str, words: str | None) -> None:
    hint = hint_for(name)
    assert hint is None if words is None else hint is not None and words in hint and f"`{name}`" in hint


def test_a_directory_without_other_weights_names_those_that_it_has(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "llava.gguf").write_bytes(b"GGUF")
    assert "llama.cpp" in str(refused(CheckpointError, "MM402", weight_files, tmp_path).hint)


def test_a_gguf_file_is_not_answered_with_its_directory(tmp_path: Path) -> None:
    file = tmp_path / "llava.gguf"
    file.write_bytes(b"GGUF")
    for source in (file, tmp_path):
        assert "llama.cpp" in str(
            refused(ConfigError, "MM130", read_config, str(source), None, tmp_path).hint
        )
    (tmp_path / "config.json").write_text("{}")
    assert "name its directory" in str(
        refused(ConfigError, "MM130", read_config, str(file), None, tmp_path).hint
    )
