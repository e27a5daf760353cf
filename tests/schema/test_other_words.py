"""Keys and values that people know from other tools."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmbuild.base.pydantic_errors import every_key
from mmbuild.schema.model import Algorithm, Backend, Device, Dtype, Recipe, VisualBackend
from mmbuild.schema.other_words import KEYS, VALUES
from support.projects.recipe_project import RECIPE, load, only


def test_every_suggested_key_and_value_exists() -> None:
    known = {*every_key(Recipe)}
    assert set(KEYS.values()) <= known
    values = {item.value for kind in (Algorithm, Backend, Device, Dtype, VisualBackend) for item in kind}
    assert set(VALUES.values()) <= values
    assert not set(VALUES) & values


@pytest.mark.parametrize(
    ("old", "new", "suggestion"),
    [
        ("dtype: float32", "dtype: fp16", "float16"),
        ("dtype: float32", "dtype: BF16", "bfloat16"),
        ("dtype: float32", "dtype: half", "float16"),
        ("quantization: int8", "quantization: 4bit", "int4"),
        ("quantization: int8", "quantization: w4a16_awq", "int4_awq"),
        ("quantization: int8", "quantization: sq", "smoothquant"),
        ("max_output_len: 64", "max_output_len: 64\n  max_new_tokens: 64", "max_output_len"),
        ("max_output_len: 64", "max_output_len: 64\n  tp_size: 2", "tensor_parallel"),
        ("max_output_len: 64", "max_output_len: 64\n  max_num_seqs: 2", "max_batch_size"),
        ("source: model", "source: model\n  model_id: x", "source"),
        ("version: 1", "version: 1\nmax_tokens: 3", "engine.max_output_len"),
    ],
)
def test_a_word_of_another_tool_gets_ours(tmp_path: Path, old: str, new: str, suggestion: str) -> None:
    assert old in RECIPE
    assert only(load(tmp_path, RECIPE.replace(old, new))).suggestion == suggestion


@pytest.mark.parametrize(
    ("old", "new", "suggestion", "hint"),
    [
        ("backend: torch", "backend: vllm", "hf", "vLLM serves what `backend: hf` writes"),
        ("backend: torch", "backend: SGLang", "hf", "SGLang serves what `backend: hf` writes"),
        (
            "quantization: int8",
            "quantization: gptq",
            "int4",
            "mmbuild does not write GPTQ; int4 needs no data, int4_awq is calibrated",
        ),
        (
            "quantization: int8",
            "quantization: nf4",
            "int4",
            "mmbuild does not write the formats of bitsandbytes; int4 and int8 need no data",
        ),
        ("quantization: int8", "quantization: 4", "int4", None),
        ("quantization: int8", "quantization: 8", "int8", None),
        ("quantization: int8", "quantization: 5", None, None),
        ("engine:", "target: {sm: 9.0}\nengine:", None, "write 90"),
        ("engine:", "target: {sm: 12.0}\nengine:", None, "write 120"),
        ("engine:", "target: {sm: sm_90a}\nengine:", None, "write 90"),
        ("engine:", "target: {sm: H100}\nengine:", None, "write 90"),
        ("engine:", "target: {sm: RTX 4090}\nengine:", None, "write 89"),
        ("engine:", "target: {sm: hopper?}\nengine:", None, None),
        (
            "max_output_len: 64",
            "max_output_len: 64\n  gpu_memory_utilization: 0.9",
            None,
            "mmbuild sizes its caches from max_batch_size, max_input_len and max_output_len",
        ),
        (
            "max_output_len: 64",
            "max_output_len: 64\n  max_seq_len: 192",
            "max_input_len",
            "TensorRT-LLM's max_seq_len is max_input_len + max_output_len",
        ),
    ],
)
def test_a_value_of_another_tool_gets_a_cure(
    tmp_path: Path, old: str, new: str, suggestion: str | None, hint: str | None
) -> None:
    found = only(load(tmp_path, RECIPE.replace(old, new)))
    assert (found.suggestion, found.hint) == (suggestion, hint)


def test_a_total_length_in_place_of_ours_is_reported_once(tmp_path: Path) -> None:
    found = only(load(tmp_path, RECIPE.replace("max_input_len: 128", "max_model_len: 192")))
    assert (found.code, found.suggestion) == ("MM103", "max_input_len")
    assert found.hint == "vLLM's max_model_len is max_input_len + max_output_len"


def test_a_value_is_suggested_only_where_it_is_allowed(tmp_path: Path) -> None:
    found = only(load(tmp_path, RECIPE.replace("backend: torch", "backend: fp16")))
    assert found.suggestion is None
