"""Mutually exclusive settings: every row of the table applies to its settings and to nothing else."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from mmbuild.base.codes import lookup
from mmbuild.schema.exclusive_settings import GIVEN, Combination, combinations
from mmbuild.schema.model import Recipe
from support.projects.recipe_project import RECIPE, load

ANY = {
    "engine.quantization.group_size": 64,
    "engine.quantization.calibration.data": "a.jsonl",
    "target.sm": 90,
}
OTHER: dict[str, Any] = {
    "engine.tensorrt_llm.fused_mlp": False,
    "engine.quantization.group_size": None,
    "engine.quantization.calibration": None,
    "target.sm": None,
    "target.device": "cuda",
    "visual.backend": "auto",
    "engine.backend": "hf",
    "model.family": "llava",
}


def written(tmp_path: Path, settings: dict[str, Any]) -> Recipe:
    """The small recipe with ``settings``, only validated against the data model."""
    (variant,) = load(tmp_path, RECIPE).variants
    content = variant.recipe.model_dump(mode="json", exclude_none=True)
    for key, value in settings.items():
        place = content
        *parents, last = key.split(".")
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return Recipe.model_validate_json(json.dumps(content))


def every_case(row: Combination) -> list[dict[str, Any]]:
    values = [[ANY[key]] if required == GIVEN else list(required) for key, required in row.when.items()]
    return [dict(zip(row.when, case, strict=True)) for case in itertools.product(*values)]


@pytest.mark.parametrize("row", combinations(), ids=lambda row: row.code)
def test_it_fires_on_each_combination_and_not_where_one_key_differs(tmp_path: Path, row: Combination) -> None:
    for case in every_case(row):
        (fault,) = row.check(written(tmp_path, case))
        assert (fault.code, fault.blame) == (row.code, tuple(row.when))
        assert "{" not in fault.message
        for key in case:
            others = {"engine.quantization.algorithm": _other_algorithm(row), **OTHER}
            if key in others and others[key] is not None:
                assert list(row.check(written(tmp_path, {**case, key: others[key]}))) == [], key


def _other_algorithm(row: Combination) -> str | None:
    required = row.when.get("engine.quantization.algorithm", ())
    every = ("none", "int8", "int4", "int4_awq", "smoothquant", "fp8")
    return next((name for name in every if name not in required), None)


def test_rows_have_codes_that_are_explained() -> None:
    for row in combinations():
        assert lookup(row.code) is not None
        assert row.hint


def test_values_are_those_that_recipes_can_have(tmp_path: Path) -> None:
    for row in combinations():
        for case in every_case(row):
            written(tmp_path, case)  # raises where a value is none of the allowed
