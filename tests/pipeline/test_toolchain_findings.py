"""What the chosen TensorRT-LLM version cannot build is a finding at its key, and nothing with backend torch."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from support.projects.recipe_project import RECIPE, codes, load, only, pointed

TRTLLM = RECIPE.replace("torch", "tensorrt-llm").replace("dtype: float32", "dtype: float16")
AWQ = TRTLLM.replace("int8", "int4_awq")
DATA = TRTLLM.replace("int8", "{algorithm: int4, calibration: {data: a.jsonl}}")


def with_version(recipe: str, version: str) -> str:
    return recipe + f"  tensorrt_llm: {{toolchain: '{version}'}}\n"


T5 = """\
version: 1
name: t5
model: {family: blip2-t5, source: 'hf://Salesforce/blip2-flan-t5-xl'}
engine:
  backend: tensorrt-llm
  dtype: bfloat16
  max_input_len: 924
  max_output_len: 100
"""
VILA15 = """\
version: 1
name: vila
model:
  family: vila
  source: hf://Efficient-Large-Model/VILA1.5-3b
  code: {source: "git+https://example.org/VILA.git", revision: abc}
engine:
  backend: tensorrt-llm
  max_input_len: 1024
  max_output_len: 100
"""


@pytest.mark.parametrize(
    ("code", "recipe", "caret", "silent"),
    [
        ("MM603", with_version(AWQ, "0.10.0"), "int4_awq", with_version(AWQ, "1.2")),
        ("MM603", with_version(AWQ, "0.10.0"), "int4_awq", with_version(TRTLLM, "0.10.0")),
        ("MM640", with_version(TRTLLM, "1.2") + "target: {sm: 100}\n", "100",
         with_version(TRTLLM, "1.2") + "target: {sm: 90}\n"),
        ("MM641", with_version(TRTLLM, "1.2") + "  tensor_parallel: 4\n", "4",
         with_version(TRTLLM, "1.2") + "  tensor_parallel: 2\n"),
        ("MM604", with_version(T5.replace("924", "512"), "0.9.0"), "'hf://Salesforce/blip2-flan-t5-xl'",
         with_version(T5.replace("924", "512"), "0.12.0")),
        ("MM604", with_version(VILA15, "0.10.0"), "hf://Efficient-Large-Model/VILA1.5-3b",
         with_version(VILA15, "0.12.0")),
        ("MM605", with_version(T5, "0.12.0"), "924", with_version(T5, "1.2")),
        ("MM169", with_version(AWQ.replace("float16", "float32"), "1.2"), "float32",
         with_version(AWQ.replace("float16", "bfloat16"), "1.2")),
        ("MM606", with_version(DATA, "1.2"), "calibration", with_version(TRTLLM.replace("int8", "int4"), "1.2")),
    ],
)  # fmt: skip
def test_finding_is_reported_at_its_key_or_not_at_all(
    tmp_path: Path, code: str, recipe: str, caret: str, silent: str
) -> None:
    found = only(load(tmp_path, recipe, offline=True))
    assert (found.code, found.severity) == (code, "error")
    assert pointed(found).startswith(caret)
    assert load(tmp_path, silent, offline=True).diagnostics == ()


@pytest.mark.parametrize("recipe", [with_version(AWQ, "0.10.0"), with_version(T5, "0.12.0")])
def test_it_is_inert_with_backend_torch(tmp_path: Path, recipe: str) -> None:
    assert codes(load(tmp_path, recipe.replace("tensorrt-llm\n", "torch\n"), offline=True)) == []


def test_findings_are_reported_together_with_rule_violations(tmp_path: Path) -> None:
    recipe = with_version(AWQ + "  max_multimodal_len: 1\n", "0.10.0")
    assert codes(load(tmp_path, recipe)) == ["MM141", "MM603"]


def test_key_rejected_by_a_rule_is_not_reported_twice(tmp_path: Path) -> None:
    # The converters of encoder-decoders have no weight-only form either.
    assert codes(load(tmp_path, T5 + "  quantization: int4\n", offline=True)) == ["MM145"]
    assert codes(load(tmp_path, with_version(AWQ, "0.11.0"))) == ["MM601"]
    assert codes(load(tmp_path, with_version(AWQ.replace("int4_awq", "int5"), "0.10.0"))) == ["MM112"]


def test_variants_of_a_matrix_are_reported_once_each_and_the_others_stay(tmp_path: Path) -> None:
    recipe = with_version(TRTLLM, "0.10.0") + "matrix: {quantization: [none, int8, int4_awq, fp8]}\n"
    result = load(tmp_path, recipe)
    assert codes(result) == ["MM603", "MM603"]
    assert [pointed(item) for item in result.diagnostics] == ["int4_awq", "fp8"]
    assert [variant.name for variant in result.variants] == ["small-none", "small-int8"]


def test_version_set_on_the_command_line_is_checked(tmp_path: Path) -> None:
    found = only(load(tmp_path, AWQ, "engine.tensorrt_llm.toolchain=0.9.0"))
    assert (found.code, pointed(found)) == ("MM603", "int4_awq")
    assert "TensorRT-LLM 0.9.0" in found.message


def test_unpinned_code_is_only_a_warning(tmp_path: Path) -> None:
    pin = '  code: {source: "git+https://example.org/VILA.git", revision: abc}\n'
    result = load(tmp_path, with_version(VILA15.replace(pin, ""), "0.12.0"), offline=True)
    found = only(result)
    assert (found.code, found.severity, pointed(found)) == ("MM642", "warning", "model")
    assert [variant.name for variant in result.variants] == ["vila"]
    assert load(tmp_path, with_version(VILA15, "0.12.0"), offline=True).diagnostics == ()


REAL = """\
version: 1
name: real
model: {family: llava, source: hf://llava-hf/llava-1.5-7b-hf}
engine:
  backend: tensorrt-llm
  max_input_len: 1024
  max_output_len: 100
  quantization: int4_awq
"""


@pytest.mark.parametrize(
    ("silent", "code"),
    [
        (REAL.replace("int4_awq", "int4"), []),
        (REAL.replace("hf://", "dummy://"), []),
        (
            REAL.replace("  quantization", "  dtype: float32\n  quantization"),
            ["MM169"],
        ),  # has its cause already
        (REAL.replace("tensorrt-llm", "torch"), ["MM168"]),
    ],
)
def test_text_only_quantizer_is_a_warning(tmp_path: Path, silent: str, code: list[str]) -> None:
    found = only(load(tmp_path, REAL, offline=True))
    assert (found.code, found.severity, pointed(found)) == ("MM175", "warning", "int4_awq")
    assert codes(load(tmp_path, silent, offline=True)) == code


def test_pictures_of_the_recipe_are_not_texts(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "data.jsonl").write_text('{"image": "a.png", "prompt": "what?"}\n')
    named = "{algorithm: int4_awq, calibration: {data: data.jsonl, samples: 1}}"
    assert codes(load(tmp_path, REAL.replace("int4_awq", named), offline=True)) == []
