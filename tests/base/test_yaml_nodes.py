"""Data with locations: merging and splitting never modify a node."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mmbuild.base.yaml_nodes import (
    Source,
    Span,
    YamlNode,
    dotted,
    drop,
    find,
    has,
    keys,
    merge,
    plain,
    replace_at,
)

HERE = Span(Source("a.yaml", ("",)), 1, 1)
THERE = Span(Source("b.yaml", ("",)), 1, 1)


def node(data: Any, span: Span = HERE) -> YamlNode:
    if isinstance(data, dict):
        return YamlNode({key: node(value, span) for key, value in data.items()}, span)
    if isinstance(data, list):
        return YamlNode(tuple(node(value, span) for value in data), span)
    return YamlNode(data, span)


words = st.sampled_from("abcd")
trees = st.recursive(
    st.integers() | st.text(max_size=3),
    lambda inner: st.dictionaries(words, inner, max_size=3) | st.lists(inner, max_size=2),
    max_leaves=10,
)
mappings = st.dictionaries(words, trees, max_size=4)


@given(trees)
def test_plain_is_the_data_alone(data: Any) -> None:
    assert plain(node(data)) == data


@given(mappings, mappings)
def test_merging_keeps_unique_keys_and_their_positions(base: dict[str, Any], over: dict[str, Any]) -> None:
    merged = merge(node(base), node(over, THERE))
    for key in base.keys() - over.keys():
        assert plain(merged.value[key]) == base[key]
        assert merged.value[key].span is HERE
    for key, value in over.items():
        if value is None and key in base:
            assert key not in merged.value
        elif not (isinstance(value, dict) and isinstance(base.get(key), dict)):
            assert plain(merged.value[key]) == value
            assert merged.value[key].span is THERE


@given(mappings)
def test_merging_with_nothing_changes_nothing(data: dict[str, Any]) -> None:
    assert plain(merge(node(data), node({}))) == data
    assert plain(merge(node({}), node(data))) == data
    assert plain(merge(node(data), node(data))) == without_nulls(data)


def without_nulls(data: Any) -> Any:
    """``data`` without the keys of its mappings whose value is null."""
    if not isinstance(data, dict):
        return data
    return {key: without_nulls(value) for key, value in data.items() if value is not None}


@given(mappings, st.lists(words, min_size=1, max_size=3), trees)
def test_what_is_put_is_found_and_dropped_again(data: dict[str, Any], path: list[str], value: Any) -> None:
    root = node(data)
    changed = replace_at(root, path, node(value))
    found, reached = find(changed, path)
    assert (plain(found), reached) == (value, tuple(path))
    assert plain(root) == data
    assert find(drop(changed, path), path)[1] == tuple(path[:-1])


def test_a_word_for_a_mapping_is_widened_when_an_option_joins_it() -> None:
    base = node({"quantization": "int4_awq"})
    for changed in (
        replace_at(base, ["quantization", "group_size"], node(64)),
        merge(base, node({"quantization": {"group_size": 64}})),
    ):
        assert plain(changed) == {"quantization": {"algorithm": "int4_awq", "group_size": 64}}


def test_what_the_user_wrote() -> None:
    root = node({"a": {"b": None, "c": 1}, "quantization": "int8"})
    assert has(root, "a.c")
    assert not has(root, "a.b")
    assert not has(root, "a.d")
    assert has(root, "quantization.algorithm")


def test_paths_as_text() -> None:
    assert dotted(("verify", "images", 0)) == "verify.images[0]"
    assert list(keys(node({"a": {"b": 1}, "c": 2}))) == ["a", "a.b", "c"]
