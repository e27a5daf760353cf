"""The JSON Schema accepts what validate accepts, and refuses what an editor can see."""

from __future__ import annotations

from collections.abc import Iterator
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


def test_every_keyword_is_one_of_json_schema() -> None:
    known = jsonschema.Draft202012Validator.VALIDATORS.keys() | {
        "$schema",
        "$defs",
        "title",
        "description",
        "default",
        "examples",
    }
    unknown = {word for schema in subschemas(json_schema()) for word in schema} - known
    assert unknown == set()


def subschemas(schema: Any) -> Iterator[dict[str, Any]]:
    """``schema`` and all schemas in it."""
    if not isinstance(schema, dict):
        return
    yield schema
    for word in ("properties", "$defs"):
        for child in schema.get(word, {}).values():
            yield from subschemas(child)
    for word in ("items", "additionalProperties"):
        yield from subschemas(schema.get(word))
    for word in ("anyOf", "oneOf", "allOf", "prefixItems"):
        for child in schema.get(word, ()):
            yield from subschemas(child)


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
        {"gates": {"min_answer_agreement": 1.5}},
        {"gates": {"max_kl": -0.1}},
        {"gates": {"max_perplexity_ratio": 0.5}},
    ],
)
def test_it_refuses(change: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        validator().validate({"version": 1, "name": "x", **change})
