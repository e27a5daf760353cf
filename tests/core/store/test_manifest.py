"""Artifacts as data: the digest depends only on the files, and damaged manifests are reported."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmbuild.base.errors import MmbuildError
from mmbuild.core.store.manifest import (
    ManifestEntry,
    make_tree,
    parse_manifest,
    tree_digest,
    tree_json,
    without_references,
)

parts = st.text("abcxyz019-_. é", min_size=1, max_size=6).filter(lambda part: part not in (".", ".."))
paths = st.lists(parts, min_size=1, max_size=3).map("/".join)
digests = st.text("0123456789abcdef", min_size=64, max_size=64)
entries = st.builds(
    ManifestEntry,
    path=paths,
    digest=digests,
    size=st.integers(0, 1 << 40),
    executable=st.booleans(),
    ref=st.none() | st.just("/home/u/f"),
)


def consistent(found):
    names = [entry.path for entry in found]
    return len(set(names)) == len(names) and not any(
        other.startswith(name + "/") for name in names for other in names
    )


trees = st.lists(entries, min_size=1, max_size=6).filter(consistent)


@given(trees, st.randoms())
def test_the_order_of_the_files_does_not_matter(found, random):
    mixed = list(found)
    random.shuffle(mixed)
    assert tree_digest(make_tree(mixed)) == tree_digest(make_tree(found))


@given(trees)
def test_a_manifest_reads_back(found):
    tree = make_tree(found)
    assert parse_manifest(tree_json(tree), "x") == tree


@given(trees, trees)
def test_other_files_have_another_digest(one, other):
    same = without_references(make_tree(one)) == without_references(make_tree(other))
    assert (tree_digest(make_tree(one)) == tree_digest(make_tree(other))) is same


@given(trees)
def test_the_path_of_a_referenced_file_is_not_part_of_the_digest(found):
    moved = [replace(entry, ref="/srv/models/f") for entry in found]
    assert tree_digest(make_tree(moved)) == tree_digest(make_tree(found))


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../x", "a/../b", "a//b", "./a", "a/"])
def test_paths_that_leave_the_artifact_are_refused(path):
    with pytest.raises(ValueError, match="not a path inside"):
        make_tree([ManifestEntry(path, "0" * 64, 1)])


@pytest.mark.parametrize("names", [("a", "a"), ("a", "a/b"), ("a/b", "a/b/c/d")])
def test_clashing_paths_are_refused(names):
    with pytest.raises(ValueError, match=r"twice|a file and a directory"):
        make_tree([ManifestEntry(name, "0" * 64, 1) for name in names])


@given(trees, st.data())
def test_a_damaged_manifest_is_reported_or_is_another_manifest(found, data):
    text = tree_json(make_tree(found))
    cut = data.draw(st.integers(0, len(text) - 1))
    with pytest.raises(MmbuildError) as caught:
        parse_manifest(text[:cut], "abc")
    assert caught.value.code == "MM304"


@pytest.mark.parametrize(
    "value", [None, [], {}, {"entries": 3}, {"entries": [3]}, {"entries": [{"path": "a"}]}]
)
def test_other_json_is_not_a_manifest(value):
    with pytest.raises(MmbuildError, match="damaged"):
        parse_manifest(json.dumps(value).encode(), "abc")
