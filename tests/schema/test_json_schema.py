"""The JSON Schema accepts what validate accepts, and refuses what an editor can see."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from mmbuild.schema.json_schema import json_schema, render

RECIPES = Path(__file__).parents[2] / "recipes"


@cache
def validator() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json_schema())


def test_the_committed_schema_is_current() -> None:
    assert (RECIPES / "schema.json").read_text("utf-8") == render()


def test_it_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())


@pytest.mark.parametrize("path", sorted(RECIPES.rglob("*.yaml")), ids=str)
def test_shipped_recipes_and_bases_pass(path: Path) -> None:
    validator().validate(yaml.safe_load(path.read_text("utf-8")))


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"nmae": "x"},
        {"engine": {"quantization": "int5"}},
        {"engine": {"quantization": {"algorithm": "int4_awq", "group": 64}}},
        {"matrix": {"quantization": []}},
        {"model": {"family": "lava"}},
    ],
)
def test_it_refuses(change: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        validator().validate({"version": 1, "name": "x", **change})
