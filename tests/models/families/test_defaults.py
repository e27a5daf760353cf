"""``defaults.yaml`` and ``fields.yaml`` say what transformers' config classes say."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from typing import Any

import pytest
import torch
import yaml
from transformers.activations import ACT2FN
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from mmbuild.models.families import defaults
from mmbuild.models.families.defaults import config_class

TABLE = yaml.safe_load(
    (defaults.files("mmbuild.models.families") / "defaults.yaml").read_text(encoding="utf-8")
)
CLASSES = sorted(set(defaults.table("fields.yaml")) - {"every"})
EVERY = defaults.table("fields.yaml")["every"]


@pytest.mark.parametrize("model_type", sorted(TABLE))
def test_every_default_is_transformers(model_type: str) -> None:
    theirs = CONFIG_MAPPING[model_type]()
    assert theirs.model_type == model_type
    plain = json.loads(json.dumps({key: getattr(theirs, key) for key in TABLE[model_type]}))
    assert TABLE[model_type] == plain


def fields(model_type: str) -> dict[str, dataclasses.Field[Any]]:
    return {field.name: field for field in dataclasses.fields(CONFIG_MAPPING[model_type])}


@pytest.mark.parametrize("model_type", [name for name in CLASSES if name != "vision-encoder-decoder"])
def test_every_other_default_is_null(model_type: str) -> None:
    theirs = {name: json.loads(json.dumps(field.default)) for name, field in fields(model_type).items()}
    rules = config_class(model_type)
    assert {key: rules.defaults.get(key) for key in rules.fields} == theirs


# How annotations are spelled in fields.yaml. Tuples do not come out of JSON.
_WORDS = {int: "int", float: "float", bool: "bool", str: "str", dict: "section", types.NoneType: "?"}


def spelled(annotation: Any) -> set[str]:
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return set().union(*(spelled(part) for part in inner))
    if origin is typing.Literal:
        return {"str"}
    if origin is list:
        return {f"{_WORDS[inner[0]]}s"}
    if origin is dict:
        return {"labels" if inner[1] is str else "counts"}
    if origin is tuple or isinstance(annotation, typing.ForwardRef):
        return set()
    if annotation in _WORDS:
        return {_WORDS[annotation]}
    return {"section"}  # a config, or a TypedDict


def words(kind: str) -> set[str]:
    return {*kind.removesuffix("?").split("|"), *(["?"] if kind.endswith("?") else [])}


@pytest.mark.parametrize("model_type", CLASSES)
def test_every_key_takes_the_kinds_of_values_that_the_class_takes(model_type: str) -> None:
    ours = {key: words(kind) for key, kind in config_class(model_type).fields.items()}
    theirs = {name: spelled(field.type) for name, field in fields(model_type).items()}
    theirs["dtype"] = {"any", "?"}  # looked up in torch, and checked then
    assert ours == theirs


@pytest.mark.parametrize("model_type", CLASSES)
def test_choices_are_the_literals_of_the_class(model_type: str) -> None:
    theirs: dict[str, list[str]] = {}
    for name, field in fields(model_type).items():
        parts = [field.type, *typing.get_args(field.type)]
        for part in parts:
            if typing.get_origin(part) is typing.Literal:
                theirs[name] = sorted(typing.get_args(part))
    assert {key: sorted(values) for key, values in config_class(model_type).choices.items()} == theirs


@pytest.mark.parametrize("model_type", CLASSES)
def test_aliases_are_the_attribute_map_of_the_class(model_type: str) -> None:
    assert config_class(model_type).aliases == CONFIG_MAPPING[model_type].attribute_map


@pytest.mark.parametrize("model_type", ["llava", "blip-2"])
def test_defaults_of_a_missing_section_are_those_of_transformers(model_type: str) -> None:
    whole = CONFIG_MAPPING[model_type]()
    for key, stands_in in config_class(model_type).sections.items():
        theirs = getattr(whole, key)
        fresh = CONFIG_MAPPING[theirs.model_type](**stands_in)
        compared = set(config_class(theirs.model_type).fields)
        assert {name: getattr(theirs, name) for name in compared} == {
            name: getattr(fresh, name) for name in compared
        }


def test_number_formats_are_those_that_torch_has_for_weights() -> None:
    assert all(isinstance(getattr(torch, name), torch.dtype) for name in EVERY["dtypes"])
    assert {
        str(dtype).removeprefix("torch.") for dtype in (torch.float32, torch.float16, torch.bfloat16)
    } < set(EVERY["dtypes"])


def test_activations_of_towers_are_those_that_transformers_has() -> None:
    assert sorted(EVERY["activations"]) == sorted(ACT2FN)
