"""The nearest spelling."""

from __future__ import annotations

import pytest

from mmbuild.base.diagnostics import nearest


@pytest.mark.parametrize(
    ("word", "expected"),
    [("int_8", "int8"), ("awq", "int4_awq"), ("AWQ", "int4_awq"), ("a", None), ("weights", None), ("", None)],
)
def test_nearest(word: str, expected: str | None) -> None:
    assert nearest(word, ["none", "int8", "int4", "int4_awq"]) == expected


def test_a_word_in_other_case_is_nearer_than_one_with_another_letter() -> None:
    assert nearest("B.yaml", ["t.yaml", "b.yaml"]) == "b.yaml"


def test_a_higher_cutoff_suggests_less() -> None:
    assert nearest("recipes", ["receipt"]) == "receipt"
    assert nearest("recipes", ["receipt"], cutoff=0.8) is None
