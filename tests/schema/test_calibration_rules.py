"""Calibration data is read during validation, and problems are reported at the key that names it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.projects.recipe_project import CONFIG, RECIPE, codes, load, only, png, pointed

ALGORITHMS = ("int4_awq", "smoothquant", "fp8")
# As wide as no demo is.
REAL = {**CONFIG, "text_config": {**CONFIG["text_config"], "hidden_size": 1024}}


def data(root: Path, samples: int, *, text: bool = False, directory: str = ".") -> None:
    place = root / directory
    place.mkdir(parents=True, exist_ok=True)
    (place / "a.png").write_bytes(png())
    image = {} if text else {"image": "a.png"}
    lines = [json.dumps({**image, "prompt": f"{number}?"}) for number in range(samples)]
    (place / "data.jsonl").write_text("\n".join(lines))


def recipe(algorithm: str = "fp8", **calibration: object) -> str:
    requested = json.dumps({"algorithm": algorithm, "calibration": {"data": "data.jsonl"} | calibration})
    return RECIPE.replace("quantization: int8", f"quantization: {requested}")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_recipe_with_data_is_built_and_the_data_is_a_file_of_it(tmp_path: Path, algorithm: str) -> None:
    data(tmp_path, 40)
    result = load(tmp_path, recipe(algorithm))
    assert codes(result) == []
    (variant,) = result.variants
    assert tmp_path / "data.jsonl" in result.files
    reported = {item.name: item for item in variant.derivations}["calibration.samples"]
    assert (reported.value, "with seed 0" in reported.arithmetic) == (32, True)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_without_data_the_derivation_says_that_pictures_are_generated(tmp_path: Path, algorithm: str) -> None:
    (variant,) = load(tmp_path, RECIPE, f"engine.quantization={algorithm}").variants
    assert "generated pictures" in variant.derivations[-1].arithmetic


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_real_weights_without_data_are_warned_about_and_random_ones_are_not(
    tmp_path: Path, algorithm: str
) -> None:
    override = f"engine.quantization={algorithm}"
    found = only(load(tmp_path, RECIPE, override, config=REAL))
    assert (found.code, found.severity) == ("MM168", "warning")
    random = RECIPE.replace("source: model", "source: dummy://./model")
    assert codes(load(tmp_path, random, override, config=REAL)) == []
    assert codes(load(tmp_path, RECIPE, "engine.quantization=int8", config=REAL)) == []
    assert codes(load(tmp_path, RECIPE, override)) == [], "a model of a demo's size"


@pytest.mark.parametrize(
    ("algorithm", "target", "refused"),
    [
        ("fp8", "{device: cuda, sm: 80}", True),
        ("fp8", "{sm: 86}", True),
        ("fp8", "{device: cuda, sm: 89}", False),
        ("fp8", "{device: cuda}", False),
        ("fp8", "{device: cpu}", False),
        ("int4_awq", "{device: cuda, sm: 80}", False),
    ],
)
def test_fp8_is_refused_for_a_gpu_without_it_where_the_recipe_names_one(
    tmp_path: Path, algorithm: str, target: str, *, refused: bool
) -> None:
    data(tmp_path, 40)
    found = load(tmp_path, recipe(algorithm), f"target={target}")
    assert codes(found) == (["MM545"] if refused else [])
    if refused:
        assert only(found).path == "target.sm"


def test_text_alone_is_refused_and_accepted_where_it_is_stated(tmp_path: Path) -> None:
    data(tmp_path, 40, text=True)
    found = only(load(tmp_path, recipe()))
    assert (found.code, found.severity, pointed(found)) == ("MM164", "error", '"data.jsonl"')
    assert "data.jsonl:1 has no image" in found.message
    assert codes(load(tmp_path, recipe(text_only=True))) == []


@pytest.mark.parametrize("algorithm", ["int8", "int4"])
def test_data_of_weight_only_quantization_are_checked_the_same_way(tmp_path: Path, algorithm: str) -> None:
    data(tmp_path, 40)
    result = load(tmp_path, recipe(algorithm))
    assert codes(result) == []
    assert tmp_path / "data.jsonl" in result.files
    assert "calibration.samples" in {one.name for one in result.variants[0].derivations}
    data(tmp_path, 40, text=True)
    assert only(load(tmp_path, recipe(algorithm))).code == "MM164"
    # Without calibration, samples are not mentioned and no pictures are generated.
    (variant,) = load(tmp_path, RECIPE, f"engine.quantization={algorithm}").variants
    assert "calibration.samples" not in {one.name for one in variant.derivations}


def test_too_few_samples_are_reported_at_the_requested_number(tmp_path: Path) -> None:
    data(tmp_path, 31)
    assert pointed(only(load(tmp_path, recipe()))) == '"data.jsonl"'
    found = only(load(tmp_path, recipe(samples=33)))
    assert (found.code, pointed(found)) == ("MM165", "33")
    assert codes(load(tmp_path, recipe(samples=31))) == []


def test_missing_data_and_a_missing_picture_are_reported(tmp_path: Path) -> None:
    assert only(load(tmp_path, recipe())).code == "MM166"
    data(tmp_path, 40)
    (tmp_path / "a.png").unlink()
    assert only(load(tmp_path, recipe())).code == "MM167"


def test_data_outside_the_project_is_not_read(tmp_path: Path) -> None:
    data(tmp_path, 40, text=True, directory="elsewhere")
    requested = recipe().replace("data.jsonl", "../elsewhere/data.jsonl")
    assert codes(load(tmp_path / "project", requested)) == ["MM122"]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_data_for_an_engine_of_tensorrt_llm_are_checked_the_same_way(tmp_path: Path, algorithm: str) -> None:
    backend = ("engine.backend=tensorrt-llm", "engine.dtype=float16")
    data(tmp_path, 40)
    result = load(tmp_path, recipe(algorithm), *backend)
    assert codes(result) == []
    assert tmp_path / "data.jsonl" in result.files
    assert "calibration.samples" in {one.name for one in result.variants[0].derivations}
    data(tmp_path, 40, text=True)
    assert only(load(tmp_path, recipe(algorithm), *backend)).code == "MM164"


def test_unused_data_are_not_checked(tmp_path: Path) -> None:
    backend = ("engine.backend=tensorrt-llm", "engine.dtype=float16")
    assert codes(load(tmp_path, recipe("int4"), *backend)) == ["MM606"]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_data_set_of_the_hub_is_named_and_not_read_to_validate(tmp_path: Path, algorithm: str) -> None:
    requested = recipe(algorithm, data="hf://datasets/shapes/pictures", revision="main", samples=5)
    result = load(tmp_path, requested)
    assert codes(result) == []
    (variant,) = result.variants
    reported = {item.name: item for item in variant.derivations}["calibration.samples"]
    assert "hf://datasets/shapes/pictures" in reported.arithmetic


def test_other_names_of_the_hub_and_revisions_of_files_are_reported_at_their_keys(tmp_path: Path) -> None:
    found = only(load(tmp_path, recipe(data="hf://shapes/pictures")))
    assert (found.code, pointed(found)) == ("MM173", '"hf://shapes/pictures"')
    data(tmp_path, 40)
    found = only(load(tmp_path, recipe(revision="v1")))
    assert (found.code, pointed(found)) == ("MM173", '"v1"')
