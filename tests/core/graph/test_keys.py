"""Keys: equal content has equal keys, any difference in content has another, and digests never drift."""

import json
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmbuild.core.graph.action import Resources
from mmbuild.core.graph.keys import action_key, body_key, canonical_json, hash_json, make_action

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=("Cs",))),
    lambda children: (
        st.lists(children, max_size=4)
        | st.dictionaries(st.text(st.sampled_from(string.ascii_letters), max_size=5), children, max_size=4)
    ),
    max_leaves=12,
)


def shuffled(value):
    """The same value with every mapping in reverse order and every list as a tuple."""
    if isinstance(value, dict):
        return {key: shuffled(value[key]) for key in reversed(value)}
    if isinstance(value, list):
        return tuple(shuffled(item) for item in value)
    return value


@given(plain)
def test_canonical_json_reads_back_as_the_same_value(value):
    assert json.loads(canonical_json(value)) == value


@given(plain)
def test_order_of_keys_and_kind_of_sequence_do_not_matter(value):
    assert canonical_json(shuffled(value)) == canonical_json(value)


@given(plain, plain)
def test_different_json_has_different_hashes(one, other):
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (hash_json(one) == hash_json(other)) is same


@pytest.mark.parametrize("value", [{1: "a"}, {"a": {1, 2}}, object(), b"bytes", {"a": [object()]}])
def test_what_is_not_plain_data_is_refused(value):
    with pytest.raises(TypeError):
        canonical_json(value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": [-float("inf")]}])
def test_nan_and_infinities_are_refused(value):
    with pytest.raises(ValueError, match="JSON"):
        canonical_json(value)


BASE = {
    "step": "convert",
    "version": "1",
    "params": {"dtype": "float16", "tensor_parallel": 2},
    "target": {"device": "cpu", "sm": None, "isa": "avx2"},
    "toolchain": {"torch": "2.13.0"},
    "inputs": {"model": "0" * 64},
    "sources": {"config.json": "1" * 64},
}


def test_keys_are_pinned():
    """A change here leaves every older result unused: raise KEY_VERSION when that is meant."""
    action = make_action(label="r/convert", **BASE)
    assert action.definition_key == "2800b119eb34d9541a79aa3c13f334e1a64cecfb02bc937a81a7d6a4fbb900c9"
    assert (
        action_key(action, {"model": "2" * 64})
        == "011fbb390b6c27c054f924ce50f66786025689730dbdef7af7d3adbd3bf17c4c"
    )


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("step", "quantize"),
        ("version", "2"),
        ("params", {"dtype": "float16", "tensor_parallel": 4}),
        ("params", {"dtype": "float16", "tensor_parallel": 2.0}),
        ("target", {"device": "cuda", "sm": 90, "isa": "avx2"}),
        ("toolchain", {"torch": "2.12.0"}),
        ("inputs", {"model": "3" * 64}),
        ("inputs", {"other": "0" * 64}),
        ("sources", {"config.json": "3" * 64}),
    ],
)
def test_every_part_of_the_content_is_in_the_definition_key(part, value):
    before = make_action(label="a", **BASE)
    after = make_action(label="a", **{**BASE, part: value})
    assert before.definition_key != after.definition_key


def test_label_locators_and_resources_are_in_no_key():
    one = make_action(label="a", **BASE)
    other = make_action(label="b", **BASE, locators={"x": "/y"}, resources=Resources(cores=8, memory=1 << 40))
    assert one.definition_key == other.definition_key
    assert action_key(one, {"model": "2" * 64}) == action_key(other, {"model": "2" * 64})


def test_the_action_key_follows_what_the_inputs_are_not_how_they_were_made():
    one = make_action(label="a", **BASE)
    other = make_action(label="a", **{**BASE, "inputs": {"model": "9" * 64}})
    digests = {"model": "2" * 64}
    assert action_key(one, digests) == action_key(other, digests)
    assert action_key(one, digests) != action_key(one, {"model": "4" * 64})
    assert body_key(one) == body_key(other)


@pytest.mark.parametrize("digests", [{}, {"model": "2" * 64, "extra": "2" * 64}, {"modle": "2" * 64}])
def test_an_action_key_needs_exactly_the_inputs(digests):
    with pytest.raises(KeyError):
        action_key(make_action(label="a", **BASE), digests)


def test_definition_action_and_body_keys_never_collide():
    action = make_action(label="a", **{**BASE, "inputs": {}})
    assert len({action.definition_key, action_key(action, {}), body_key(action)}) == 3
