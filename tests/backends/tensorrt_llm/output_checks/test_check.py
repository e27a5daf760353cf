"""Checks of command outputs, written by stand-ins for TensorRT-LLM's programs."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmbuild.models.families import MODULES
from mmbuild.schema.tensorrt_llm_versions import SUPPORTED
from support.marks import slow_except
from support.toolchain.cases import rendered
from support.toolchain.products import executed, fetchable


@pytest.mark.parametrize("version", slow_except(SUPPORTED, "0.9.0"))
def test_correct_products_have_no_findings(version: str, tmp_path: Path) -> None:
    made: dict[str, set[str]] = {}
    for number, (variant, steps) in enumerate(rendered(version)):
        if not fetchable(variant):
            continue
        for name, findings in executed(variant, steps, version, tmp_path / str(number)):
            assert [str(item) for item in findings] == [], (variant.name, name)
            made.setdefault(variant.facts.family, set()).add(name)
    assert set(made) == set(MODULES)
    for names in made.values():
        assert len(names) >= 3
