"""What recipes' files say, key by key, with places."""

from pathlib import Path

import pytest
import yaml

from mmbuild.base.yaml_nodes import YamlNode, replace_at
from mmbuild.pipeline.load import load_recipes, with_node
from mmbuild.schema.explicit_values import explicit_nodes, explicit_values, span_of

RECIPE = Path("recipes/demo/llava-int4.yaml")


@pytest.fixture
def load(monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])

    def loaded(*overrides):
        (variant,) = load_recipes([RECIPE], overrides=overrides).variants
        return variant

    return loaded


def test_keys_are_dotted_and_short_words_stand_in_full(load):
    found = explicit_values(load("engine.quantization=int8").node)
    assert found["engine.quantization.algorithm"] == "int8"
    assert "engine.quantization" not in found
    assert isinstance(found["verify.prompts"], list)
    assert explicit_values(load("engine.quantization={algorithm: int8}").node) == found


def test_a_place_is_the_value_in_the_file_that_has_it(load):
    node = load().node
    for key in explicit_nodes(node):
        span = span_of(node, key)
        text = Path(span.source.label).read_text().splitlines()[span.line - 1]
        assert span.excerpt == text
        value = explicit_nodes(node)[key].value
        if not isinstance(value, tuple):
            assert yaml.safe_load(text[span.column - 1 : span.column - 1 + span.width]) == value
    assert span_of(node, "engine.nothing") is None
    said = span_of(load("engine.max_batch_size=3").node, "engine.max_batch_size")
    assert said.source.label == "--set engine.max_batch_size=3"


def test_a_variant_can_be_had_as_if_a_line_were_another(load):
    variant = load()
    span = span_of(variant.node, "engine.quantization.algorithm")
    other = with_node(
        variant, replace_at(variant.node, ["engine", "quantization"], YamlNode("int8", span)), offline=True
    )
    assert other.name == variant.name
    assert other.recipe.engine.quantization.algorithm.value == "int8"
    assert (
        with_node(variant, replace_at(variant.node, ["engine", "quantization"], YamlNode("int7", span)))
        is None
    )
