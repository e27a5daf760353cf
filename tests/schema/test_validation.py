"""Pydantic errors are reported in the user's terms and at the user's location."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmbuild.schema.validation import every_key, section_at
from support.projects.recipe_project import RECIPE, load, only, pointed


@pytest.mark.parametrize(
    ("line", "faulty", "expected", "caret"),
    [
        ("  max_batch_size: 2", "  max_batch_sise: 2", ("MM103", "max_batch_size"), "max_batch_sise"),
        ("engine:", "quantization: int4\nengine:", ("MM103", "engine.quantization"), "quantization"),
        ("  family: llava", "  family: lava", ("MM112", "llava"), "lava"),
        ("  backend: torch", "  backend: tensorrt_llm", ("MM112", "tensorrt-llm"), "tensorrt_llm"),
        ("  quantization: int8", "  quantization: int_4", ("MM112", "int4"), "int_4"),
        ("  quantization: int8", "  quantization: {algorithm: awq}", ("MM112", "int4_awq"), "awq"),
        ("  dtype: float32", "  dtype: flaot16", ("MM112", "float16"), "flaot16"),
        ("  quantization: int8", "  quantization: [int8]", ("MM114", None), "["),
        ("  max_batch_size: 2", "  max_batch_size: 0", ("MM113", None), "0"),
        ("  max_batch_size: 2", "  max_batch_size: '2'", ("MM114", None), "'2'"),
        ("  max_batch_size: 2", "  max_batch_size: 2.5", ("MM114", None), "2.5"),
        ("  max_batch_size: 2", "  max_batch_size: true", ("MM114", None), "true"),
        ("  max_batch_size: 2", "  max_batch_size:", ("MM114", None), ""),
        ("  max_batch_size: 2", "  max_batch_size: [2]", ("MM114", None), "["),
        ("engine:", "verify: {prompts: [1]}\nengine:", ("MM114", None), "1"),
        ("engine:", "verify: {prompts: why}\nengine:", ("MM114", None), "why"),
        ("engine:", "visual: []\nengine:", ("MM114", None), "["),
        ("engine:", "target: {isa: 'AVX 2'}\nengine:", ("MM116", None), "'AVX 2'"),
        ("version: 1", "version: 2", ("MM115", None), "2"),
        ("version: 1", "version: '1'", ("MM115", None), "'1'"),
        ("name: small", "name: a/b", ("MM116", None), "a/b"),
        ("name: small", "name: ''", ("MM116", None), "''"),
        (
            "  max_output_len: 64",
            "  max_output_len: 64\n  tensorrt_llm: {toolchain: 1.2}",
            ("MM114", None),
            "1.2",
        ),
        (
            "  max_output_len: 64",
            "  max_output_len: 64\n  tensorrt_llm: {fused_mlp: atuo}",
            ("MM112", "auto"),
            "atuo",
        ),
    ],
)
def test_a_wrong_value_is_underlined(
    tmp_path: Path, line: str, faulty: str, expected: tuple[str, str | None], caret: str
) -> None:
    found = only(load(tmp_path, RECIPE.replace(line, faulty)))
    assert (found.code, found.suggestion) == expected
    assert pointed(found) == caret or not caret
    assert found.file.endswith("recipe.yaml")


@pytest.mark.parametrize(
    "address",
    [
        "git+https://somebody:token@example.org/VILA.git",
        "git+https://token@example.org/VILA.git",
        "git+https://example.org/VILA.git@abc",
    ],
)
def test_an_address_of_code_has_no_password_and_no_revision(tmp_path: Path, address: str) -> None:
    code = f"  code: {{source: '{address}', revision: abc}}\nengine:"
    found = only(load(tmp_path, RECIPE.replace("engine:", code)))
    assert (found.code, found.path) == ("MM116", "model.code.source")
    assert "without user, password or revision" in (found.hint or "")


@pytest.mark.parametrize(
    ("gate", "bound"),
    [
        ("min_answer_agreement: 950", "at most 1,"),
        ("max_perplexity_ratio: 0.5", "at least 1,"),
        ("max_kl: -1", "at least 0,"),
    ],
)
def test_bounds_are_shown_as_people_write_them(tmp_path: Path, gate: str, bound: str) -> None:
    assert f"must be {bound}" in only(load(tmp_path, RECIPE + f"gates: {{{gate}}}\n")).message


@pytest.mark.parametrize(
    ("line", "faulty", "code", "hint"),
    [
        ("version: 1", 'version: "1"', "MM115", "remove the quotes: `version: 1`"),
        ("version: 1", "version: 2", "MM115", "write `version: 1`; a newer format needs a newer mmbuild"),
        ("version: 1", "# a comment\n# another", "MM111", "add `version: 1`"),
        ("max_input_len: 128", "max_input_len: 4k", "MM114", "write 4096"),
        ("max_input_len: 128", "max_input_len: 192.0", "MM114", "write 192"),
        ("max_input_len: 128", "max_input_len: 1e3", "MM114", "write 1000"),
        ("max_input_len: 128", "max_input_len: 192.5", "MM114", None),
        ("max_input_len: 128", "max_input_len: '128'", "MM114", "remove the quotes"),
        ("max_input_len: 128", "max_input_len: long", "MM114", None),
        (
            "engine:",
            "gates: {min_answer_agreement: 95}\nengine:",
            "MM113",
            "write it as a fraction: 95 % is 0.95",
        ),
        ("engine:", "gates: {min_answer_agreement: 95%}\nengine:", "MM114", "write 0.95"),
        ("engine:", "gates: {min_answer_agreement: 950}\nengine:", "MM113", None),
        (
            "engine:",
            "verify:\n  prompts:\n    - What: is this\nengine:",
            "MM114",
            "put the text in quotes: a colon followed by a space makes it a mapping",
        ),
        ("engine:", "verify: {images: x.png}\nengine:", "MM114", "put it in brackets: `[x.png]`"),
        ("engine:", "matrix: {quantization: int8}\nengine:", "MM124", "write `quantization: [int8]`"),
        ("engine:", "matrix: {quantization: []}\nengine:", "MM124", None),
        (
            "name: small",
            "name: my (own) model",
            "MM116",
            "use only letters, digits, `.`, `_` and `-`: `my-own-model`",
        ),
        (
            "name: small",
            "name: '...'",
            "MM116",
            "expected: name of the build: letters, digits, `.`, `_`, `-`; the engine is written to `build/<name>`",
        ),
        (
            "engine:",
            "target: {isa: AVX 2}\nengine:",
            "MM116",
            "expected: CPU instruction set the engine may use, such as `avx2` or `avx512`",
        ),
        (
            "model:",
            "target: {sm: 90}\ntarget: {sm: 80}\nmodel:",
            "MM104",
            "move all its keys below one `target:`",
        ),
        ("name: small", "name: small\nname: other", "MM104", "keep one of the two"),
    ],
)
def test_a_wrong_value_gets_the_right_one(
    tmp_path: Path, line: str, faulty: str, code: str, hint: str | None
) -> None:
    found = only(load(tmp_path, RECIPE.replace(line, faulty, 1)))
    assert (found.code, found.hint) == (code, hint)


@pytest.mark.parametrize(
    ("line", "faulty", "message"),
    [
        ("version: 1", "version: '1'", "`version` must be the number 1, not the text `1`"),
        ("version: 1", "version: 2", "unknown recipe version `2`"),
        (
            "max_input_len: 128",
            "max_input_len: '128'",
            "`engine.max_input_len` must be a whole number, not the text `128`",
        ),
        (
            "max_input_len: 128",
            "max_input_len: 128 tokens",
            "`engine.max_input_len` must be a whole number, not `128 tokens`",
        ),
    ],
)
def test_text_that_looks_like_a_number_is_called_text(
    tmp_path: Path, line: str, faulty: str, message: str
) -> None:
    assert only(load(tmp_path, RECIPE.replace(line, faulty, 1))).message == message


@pytest.mark.parametrize(
    ("line", "faulty", "key"),
    [
        ("engine:", "Engine:", "engine"),
        ("engine:", "engines:", "engine"),
        ("  family:", "  famly:", "family"),
    ],
)
def test_a_misspelt_key_is_not_missing_too(tmp_path: Path, line: str, faulty: str, key: str) -> None:
    found = only(load(tmp_path, RECIPE.replace(line, faulty, 1)))
    assert (found.code, found.suggestion) == ("MM103", key)


def test_a_key_that_nothing_resembles_is_missing(tmp_path: Path) -> None:
    found = load(tmp_path, RECIPE.replace("  max_input_len: 128", "  xyz: 128")).diagnostics
    assert [item.code for item in found] == ["MM111", "MM103"]


@pytest.mark.parametrize(
    ("line", "key", "anchor"),
    [
        ("name: small\n", "name", ""),
        ("  family: llava\n", "model.family", "model"),
        ("  source: model\n", "model.source", "model"),
        ("  max_input_len: 128\n", "engine.max_input_len", "engine"),
        ("  backend: torch\n", "engine.backend", "engine"),
        ("version: 1\n", "version", ""),
    ],
)
def test_a_missing_key_points_at_its_mapping(tmp_path: Path, line: str, key: str, anchor: str) -> None:
    found = only(load(tmp_path, RECIPE.replace(line, "")))
    assert (found.code, found.path) == ("MM111", key)
    if anchor:
        assert pointed(found) == anchor
    assert found.hint
    assert key.rpartition(".")[2] in found.hint


def test_a_missing_section_is_one_finding(tmp_path: Path) -> None:
    found = only(load(tmp_path, RECIPE[: RECIPE.index("engine:")]))
    assert (found.code, found.path) == ("MM111", "engine")


def test_a_number_for_text_says_to_quote_it(tmp_path: Path) -> None:
    recipe = RECIPE + "  tensorrt_llm: {toolchain: 0.9}\n"
    assert only(load(tmp_path, recipe)).hint == "quote it: `'0.9'`"


def test_all_faults_are_reported_at_once_and_rules_still_apply(tmp_path: Path) -> None:
    recipe = RECIPE.replace("torch", "tocrh").replace("float32", "f32").replace("max_batch_size: 2", "tp: 1")
    recipe += "  tensor_parallel: 3\n  max_multimodal_len: 5\n"
    result = load(tmp_path, recipe)
    # 1 x 3 x 16 = 48: max_batch_size is not at fault, it has its default.
    assert sorted(item.code for item in result.diagnostics) == ["MM103", "MM112", "MM112", "MM141", "MM147"]
    assert result.variants == ()


def test_findings_of_the_yaml_reader_are_not_repeated(tmp_path: Path) -> None:
    found = only(load(tmp_path, RECIPE.replace("max_batch_size: 2", "max_batch_size: yes")))
    assert found.code == "MM108"


def test_every_key_of_the_schema_has_a_description() -> None:
    for key in every_key():
        *parents, name = key.split(".")
        section = section_at(tuple(parents))
        assert section is not None
        assert section.model_fields[name].description, key
