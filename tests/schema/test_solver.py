"""Numbers that follow, with their arithmetic."""

from __future__ import annotations

from pathlib import Path

from mmbuild.schema.model import Recipe
from mmbuild.schema.solver import multimodal_len
from support.projects.recipe_project import RECIPE, load

DERIVED = {
    "num_visual_features": "(28 // 7)^2 = 16",
    "max_multimodal_len": "max_batch_size 2 x max_images_per_prompt 3 x num_visual_features 16 = 96",
    "visual.max_batch_size": "max_batch_size 2 x max_images_per_prompt 3 = 6",
    "max_seq_len": "max_input_len 128 + max_output_len 64 = 192",
}


def test_every_number_is_filled_in_and_explained(tmp_path: Path) -> None:
    (variant,) = load(tmp_path).variants
    assert {item.name: item.arithmetic for item in variant.derivations} == DERIVED
    engine, visual = variant.recipe.engine, variant.recipe.visual
    assert (engine.num_visual_features, engine.max_multimodal_len, visual.max_batch_size) == (16, 96, 6)


def test_the_visual_engine_follows_the_llms(tmp_path: Path) -> None:
    (variant,) = load(tmp_path).variants
    assert (variant.recipe.visual.backend, variant.recipe.visual.dtype) == ("torch", "float32")
    (other,) = load(tmp_path, RECIPE, "engine.backend=tensorrt-llm", "visual.dtype=float16").variants
    assert (other.recipe.visual.backend, other.recipe.visual.dtype) == ("tensorrt", "float16")


def test_ranks_pad_the_vocabulary(tmp_path: Path) -> None:
    (variant,) = load(tmp_path, RECIPE, "engine.tensor_parallel=4").variants
    padded = variant.derivations[-1]
    assert (padded.name, padded.value) == ("padded_vocab_size", 104)


def test_features_for_cross_attention_are_per_sequence() -> None:
    engine = {"backend": "torch", "max_batch_size": 5, "max_input_len": 10, "max_output_len": 10}
    model = {"family": "nougat", "source": "hf://a/b"}
    recipe = Recipe.model_validate(
        {"version": 1, "name": "n", "model": model, "engine": engine}, strict=False
    )
    assert multimodal_len(recipe, 588).value == 588


def test_a_solved_recipe_is_valid_and_solves_to_itself(tmp_path: Path) -> None:
    (variant,) = load(tmp_path).variants
    again = Recipe.model_validate_json(variant.recipe.model_dump_json())
    assert again == variant.recipe
