"""``extends``, unreadable files and the project's root."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mmbuild.base.limits import YAML_TEXT
from mmbuild.pipeline.load import load_recipes
from mmbuild.schema.files import project_root
from mmbuild.schema.model import Algorithm, Quantization
from support.projects.recipe_project import RECIPE, codes, load, only, pointed, write_project

TOP = "version: 1\nname: top\nextends: recipe.yaml\n"


def write_top(tmp_path: Path, text: str = TOP, base: str = RECIPE) -> Path:
    write_project(tmp_path, base)
    top = tmp_path / "top.yaml"
    top.write_text(text, encoding="utf-8")
    return top


def test_a_recipe_goes_over_its_base_key_by_key(tmp_path: Path) -> None:
    top = write_top(tmp_path, TOP + "engine: {quantization: none, max_batch_size: 4}\n")
    result = load_recipes([top])
    (variant,) = result.variants
    assert variant.name == "top"
    assert variant.recipe.engine.quantization.algorithm == "none"
    assert (variant.recipe.engine.max_batch_size, variant.recipe.engine.max_images_per_prompt) == (4, 3)
    assert [file.name for file in result.files] == ["top.yaml", "recipe.yaml", "config.json", "model"]


def test_a_fault_in_the_base_points_into_the_base(tmp_path: Path) -> None:
    found = only(load_recipes([write_top(tmp_path, base=RECIPE.replace("float32", "float8"))]))
    assert found.file.endswith("recipe.yaml")
    assert pointed(found) == "float8"


def test_a_null_takes_back_what_the_base_stated(tmp_path: Path) -> None:
    base = RECIPE + "  max_multimodal_len: 96\n"
    top = write_top(tmp_path, TOP + "engine: {max_batch_size: 1, max_multimodal_len: null}\n", base)
    (variant,) = load_recipes([top]).variants
    assert variant.recipe.engine.max_multimodal_len == 48


@pytest.mark.parametrize(
    ("stated", "reset", "key", "default"),
    [
        ("engine: {max_beam_width: 4}", "engine: {max_beam_width: null}", "max_beam_width", 1),
        ("engine: {dtype: bfloat16}", "engine: {dtype: }", "dtype", "float16"),
        ("engine: {quantization: int8}", "engine: {quantization: ~}", "quantization", Quantization()),
        (
            "engine: {quantization: {algorithm: int4_awq, group_size: 64}}",
            "engine: {quantization: {algorithm: int8, group_size: null}}",
            "quantization",
            Quantization(algorithm=Algorithm.INT8),
        ),
        ("matrix: {max_batch_size: [1, 2]}", "matrix: {max_batch_size: null}", "max_batch_size", 2),
    ],
)
def test_a_null_resets_any_key_to_its_default(
    tmp_path: Path, stated: str, reset: str, key: str, default: object
) -> None:
    write_project(tmp_path, RECIPE.replace("  dtype: float32\n  quantization: int8\n", ""))
    (tmp_path / "middle.yaml").write_text(f"version: 1\nextends: recipe.yaml\n{stated}\n")
    top = tmp_path / "top.yaml"
    top.write_text(f"version: 1\nname: top\nextends: middle.yaml\n{reset}\n")
    result = load_recipes([top])
    assert codes(result) == []
    assert [getattr(variant.recipe.engine, key) for variant in result.variants] == [default]


def test_a_null_where_there_is_nothing_to_reset_is_a_missing_value(tmp_path: Path) -> None:
    assert codes(load_recipes([write_top(tmp_path, TOP + "engine: {max_beam_width: null}\n")])) == ["MM114"]
    assert codes(load_recipes([write_top(tmp_path, TOP + "engine: {max_input_len: null}\n")])) == ["MM111"]


@pytest.mark.parametrize("version", ["2", "true", "1.0", "'1'"])
def test_a_base_of_another_version_is_refused(tmp_path: Path, version: str) -> None:
    found = only(
        load_recipes([write_top(tmp_path, base=RECIPE.replace("version: 1", f"version: {version}"))])
    )
    assert (found.code, found.file.endswith("recipe.yaml"), found.line) == ("MM115", True, 1)


@pytest.mark.parametrize("extends", ["[recipe.yaml]", "3", "''", "{a: b}"])
def test_a_base_in_the_wrong_form_is_the_only_finding(tmp_path: Path, extends: str) -> None:
    top = write_top(tmp_path, TOP.replace("recipe.yaml", extends))
    assert codes(load_recipes([top])) == ["MM114"]


def test_a_circle_is_refused_with_its_chain(tmp_path: Path) -> None:
    top = write_top(tmp_path, base=RECIPE + "extends: top.yaml\n")
    found = only(load_recipes([top]))
    assert found.code == "MM120"
    names = [Path(part).name for part in found.message.partition(": ")[2].split(" -> ")]
    assert names == ["top.yaml", "recipe.yaml", "top.yaml"]
    assert found.file.endswith("recipe.yaml")


def test_a_recipe_that_extends_itself_is_refused(tmp_path: Path) -> None:
    assert codes(load(tmp_path, RECIPE + "extends: recipe.yaml\n")) == ["MM120"]


@pytest.mark.parametrize("extends", ["nowhere.yaml", "'./'", "a/b.yaml"])
def test_a_missing_base_points_at_extends(tmp_path: Path, extends: str) -> None:
    text = f"version: 1\nname: x\nextends: {extends}\n"
    found = only(load_recipes([write_top(tmp_path, text)]))
    assert (found.code, found.line) == ("MM121", 3)


@pytest.mark.parametrize("extends", ["[a.yaml]", "3", "''", "."])
def test_extends_is_one_path(tmp_path: Path, extends: str) -> None:
    result = load_recipes([write_top(tmp_path, TOP.replace("recipe.yaml", extends))])
    assert "MM114" in codes(result)
    assert result.variants == ()


def test_a_base_without_version_is_reported(tmp_path: Path) -> None:
    found = only(load_recipes([write_top(tmp_path, base=RECIPE.replace("version: 1\n", ""))]))
    assert (found.code, found.path) == ("MM111", "version")
    assert found.file.endswith("recipe.yaml")


def test_a_base_outside_the_root_is_refused_unless_allowed(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    top = write_top(tmp_path / "inside", TOP.replace("recipe.yaml", "../base.yaml"))
    (tmp_path / "base.yaml").write_text(RECIPE.replace("model\n", "inside/model\n"), encoding="utf-8")
    assert codes(load_recipes([top])) == ["MM122"]
    assert codes(load_recipes([top], allow_outside=True)) == []


def test_the_root_is_the_nearest_marked_ancestor(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/.git").mkdir()
    assert project_root(tmp_path / "a/b/recipe.yaml") == tmp_path / "a"


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"\xff\xfe\x00", "MM100"),
        (b"#" * (YAML_TEXT.size + 1), "MM100"),
        (b"- 1\n", "MM114"),
        (b"just words\n", "MM114"),
        (b"", "MM101"),
    ],
)
def test_a_file_that_is_not_a_recipe(tmp_path: Path, content: bytes, code: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    assert codes(load_recipes([path])) == [code]


def test_a_missing_recipe_names_its_neighbour(tmp_path: Path) -> None:
    write_project(tmp_path)
    found = only(load_recipes([tmp_path / "recpie.yaml"]))
    assert found.code == "MM100"
    assert "recipe.yaml" in str(found.hint)


def test_a_directory_is_not_a_recipe(tmp_path: Path) -> None:
    assert only(load_recipes([tmp_path])).code == "MM100"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_recipe(tmp_path: Path) -> None:
    path = write_project(tmp_path)
    path.chmod(0)
    assert only(load_recipes([path])).code == "MM100"


def test_a_byte_order_mark_and_dos_lines_do_no_harm(tmp_path: Path) -> None:
    path = write_project(tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + RECIPE.replace("\n", "\r\n").encode())
    assert codes(load_recipes([path])) == []


LOCK = "lock: 1\nenvironments: {}\nplan: abc\n"


@pytest.mark.parametrize("suffix", [".yaml", ".yml"])
def test_a_lock_names_the_command_that_uses_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(f"model{suffix}").write_text(RECIPE)
    Path("model.lock").write_text(LOCK)
    found = only(load_recipes([Path("model.lock")]))
    assert (found.code, found.message) == ("MM100", "`model.lock` is a lock, not a recipe")
    assert found.hint == f"`mmbuild apply model{suffix} --locked` uses it"


def test_a_lock_without_its_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model.lock").write_text(LOCK)
    assert only(load_recipes([Path("model.lock")])).hint == "`mmbuild apply RECIPE --locked` uses it"


def test_files_without_version_are_reported_once_each(tmp_path: Path) -> None:
    top = write_top(
        tmp_path, "# the top\nname: top\nextends: recipe.yaml\n", RECIPE.replace("version: 1", "# base")
    )
    assert [(Path(item.file).name, item.code) for item in load_recipes([top]).diagnostics] == [
        ("top.yaml", "MM111"),
        ("recipe.yaml", "MM111"),
    ]
