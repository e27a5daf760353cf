"""What validates and is not built yet says so, and where."""

from __future__ import annotations

from pathlib import Path

import pytest
from recipe_project import RECIPE, codes, load

from mmbuild.schema.pending import not_built_yet


@pytest.mark.parametrize(
    ("override", "code"),
    [
        ("engine.quantization={algorithm: int8, calibration: {data: a.jsonl}}", "MM172"),
    ],
)
def test_it_validates_and_is_told_where_it_stands(tmp_path: Path, override: str, code: str) -> None:
    result = load(tmp_path, RECIPE, override)
    assert codes(result) == []
    (variant,) = result.variants
    (pending,) = variant.pending
    assert (pending.code, pending.file) == (code, f"--set {override}")
    assert [item.code for item in not_built_yet(variant.recipe)] == [code]


@pytest.mark.parametrize("algorithm", ["none", "int8", "int4", "int4_awq", "smoothquant", "fp8"])
def test_nothing_is_pending_with_tensorrt_llm(tmp_path: Path, algorithm: str) -> None:
    # Its toolchains say what they cannot build, as findings.
    overrides = ("engine.backend=tensorrt-llm", "engine.dtype=float16", f"engine.quantization={algorithm}")
    (variant,) = load(tmp_path, RECIPE, *overrides).variants
    assert variant.pending == ()


@pytest.mark.parametrize(
    "override", ["engine.tensor_parallel=2", "engine.max_beam_width=4", "visual.backend=tensorrt"]
)
def test_ranks_beams_and_tensorrt_visual_engines_are_built(tmp_path: Path, override: str) -> None:
    (variant,) = load(tmp_path, RECIPE, override).variants
    assert variant.pending == ()


def test_what_is_built_is_not_pending(tmp_path: Path) -> None:
    (variant,) = load(tmp_path).variants
    assert variant.pending == ()
