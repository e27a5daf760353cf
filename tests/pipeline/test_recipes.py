"""The recipes of this repository: all of them validate without a network."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmbuild.pipeline.load import load_recipes

ROOT = Path(__file__).parents[2] / "recipes"
REAL = sorted(ROOT.glob("*.yaml"))
DEMO = sorted((ROOT / "demo").glob("*.yaml"))


def test_all_real_recipes_validate_together_offline() -> None:
    result = load_recipes(REAL, offline=True)
    # No commit of VILA's code could be confirmed, and each recipe that needs it says so. Nobody's pictures are here.
    assert {item.code for item in result.diagnostics} == {"MM642", "MM175"}
    assert {item.severity for item in result.diagnostics} == {"warning"}
    assert all("vila" in str(item.file) for item in result.diagnostics if item.code == "MM642")
    assert all("calibrated" in str(item.file) for item in result.diagnostics if item.code == "MM175")
    assert len({variant.name for variant in result.variants}) == len(result.variants)


@pytest.mark.parametrize("path", DEMO, ids=lambda path: path.stem)
def test_a_demo_recipe_validates_and_is_built(path: Path) -> None:
    result = load_recipes([path], offline=True)
    assert [str(item) for item in result.diagnostics] == []
    (variant,) = result.variants
    assert path.stem.startswith(str(variant.recipe.model.family))


# The commands of TensorRT-LLM's multimodal README: batch, longest input and answer, rows of the prompt table.
README = {
    "flan-t5-xl": (8, 924, 100, 256),
    "flan-t5-xxl": (8, 924, 100, 256),
    "opt-2.7b-none": (8, 924, 100, 256),
    "opt-2.7b-int4": (8, 924, 100, 256),
    "opt-6.7b-int8": (8, 924, 100, 256),
    "llava-1.5-7b-fp16": (1, 2048, 512, 576),
    "llava-1.5-7b-int4": (1, 1024, 100, 576),
    "llava-1.5-13b-int4_awq": (1, 1024, 100, 576),
    "llava-1.5-7b-tp2": (1, 2048, 512, 576),
    "vila-7b-fp16": (1, 2048, 512, 576),
    "vila-13b-smoothquant": (1, 1024, 100, 576),
    "vila-2.7b-int8": (1, 1024, 100, 576),
    "vila1.5-3b-fp16": (1, 2048, 512, 196),
    "nougat-base": (1, 1, 100, 588),
    "nougat-small": (1, 1, 100, 588),
}


@pytest.mark.parametrize("name", sorted(README))
def test_lengths_match_the_commands_they_replace(name: str) -> None:
    variants = {variant.name: variant for variant in load_recipes(REAL, offline=True).variants}
    engine = variants[name].recipe.engine
    lengths = (engine.max_batch_size, engine.max_input_len, engine.max_output_len, engine.max_multimodal_len)
    assert lengths == README[name]
