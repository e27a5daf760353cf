"""The solver: every number that follows from others, with its arithmetic."""

from __future__ import annotations

from mmbuild.models.calibration_data.samples import DEFAULT_SAMPLES
from mmbuild.models.families import family
from mmbuild.models.families.facts import Derivation, ModelFacts, Traits
from mmbuild.schema.calibration_rules import is_fitted_by_mmbuild
from mmbuild.schema.linear_shapes import group_size
from mmbuild.schema.model import Algorithm, Backend, Quantization, Recipe, VisualBackend

_FOLLOWS = {Backend.TENSORRT_LLM: VisualBackend.TENSORRT, Backend.TORCH: VisualBackend.TORCH}


def traits(recipe: Recipe) -> Traits:
    """What recipes of the family may say."""
    return family(recipe.model.family).TRAITS


def visual_batch(recipe: Recipe) -> Derivation:
    """Most images the visual engine gets at once."""
    engine = recipe.engine
    value = engine.max_batch_size * engine.max_images_per_prompt
    batch, images = engine.max_batch_size, engine.max_images_per_prompt
    arithmetic = f"max_batch_size {batch} x max_images_per_prompt {images} = {value}"
    return Derivation("visual.max_batch_size", value, arithmetic)


def multimodal_len(recipe: Recipe, features: int) -> Derivation:
    """Rows of the prompt table for ``features`` visual features per image."""
    engine = recipe.engine
    # Features that go to cross-attention are looked at one sequence at a time: the batch does not multiply them.
    if traits(recipe).cross_attention:
        return Derivation(
            "max_multimodal_len", features, f"num_visual_features {features}, per sequence = {features}"
        )
    value = engine.max_batch_size * engine.max_images_per_prompt * features
    arithmetic = (
        f"max_batch_size {engine.max_batch_size} x max_images_per_prompt {engine.max_images_per_prompt}"
        f" x num_visual_features {features} = {value}"
    )
    return Derivation("max_multimodal_len", value, arithmetic)


def sequence_len(recipe: Recipe) -> Derivation:
    """Longest sequence of the decoder: prompt and answer, or start token and answer."""
    engine = recipe.engine
    if traits(recipe).encoder_decoder:
        value = 1 + engine.max_output_len
        arithmetic = f"1 start token + max_output_len {engine.max_output_len} = {value}"
        return Derivation("max_seq_len", value, arithmetic)
    value = engine.max_input_len + engine.max_output_len
    arithmetic = f"max_input_len {engine.max_input_len} + max_output_len {engine.max_output_len} = {value}"
    return Derivation("max_seq_len", value, arithmetic)


def padded_vocab(recipe: Recipe, facts: ModelFacts) -> Derivation:
    """Rows of the output head, padded so that all ranks get the same share."""
    ranks, vocab = recipe.engine.tensor_parallel, facts.llm.vocab_size
    value = -(-vocab // ranks) * ranks
    return Derivation(
        "padded_vocab_size", value, f"vocab_size {vocab}, up to a multiple of {ranks} = {value}"
    )


def derivations(recipe: Recipe, facts: ModelFacts) -> tuple[Derivation, ...]:
    """All that follows, in the order in which it follows."""
    features = facts.visual.num_visual_features
    found = [
        facts.visual.derivation,
        multimodal_len(recipe, features),
        visual_batch(recipe),
        sequence_len(recipe),
    ]
    if recipe.engine.tensor_parallel > 1:
        found.append(padded_vocab(recipe, facts))
    if is_fitted_by_mmbuild(recipe.engine):
        found.append(calibration_samples(recipe))
    return tuple(found)


def calibration_samples(recipe: Recipe) -> Derivation:
    """How many samples a quantization is fitted on, and where they come from."""
    calibration = recipe.engine.quantization.calibration
    count = calibration.samples if calibration else DEFAULT_SAMPLES
    what = (
        f"drawn from `{calibration.data}` by seed {calibration.seed}"
        if calibration
        else "generated pictures: no data is named"
    )
    return Derivation("calibration.samples", count, f"{count} {what}")


def _quantization(recipe: Recipe, facts: ModelFacts) -> Quantization:
    """With the group size chosen where the algorithm has groups and the recipe leaves it out."""
    stated, ranks = recipe.engine.quantization, recipe.engine.tensor_parallel
    if stated.algorithm is not Algorithm.INT4_AWQ or stated.group_size is not None:
        return stated
    return stated.model_copy(update={"group_size": group_size(facts, ranks)})


def solve(recipe: Recipe, facts: ModelFacts | None) -> Recipe:
    """``recipe`` with every derived value filled in; without facts, all but what needs them."""
    engine, visual = recipe.engine, recipe.visual
    backend = (
        _FOLLOWS.get(engine.backend, VisualBackend.TORCH)
        if visual.backend is VisualBackend.AUTO
        else visual.backend
    )
    visual = visual.model_copy(
        update={
            "backend": backend,
            "dtype": visual.dtype or engine.dtype,
            "max_batch_size": visual_batch(recipe).value,
        }
    )
    if facts is not None:
        features = facts.visual.num_visual_features
        engine = engine.model_copy(
            update={
                "num_visual_features": features,
                "max_multimodal_len": multimodal_len(recipe, features).value,
                "quantization": _quantization(recipe, facts),
            }
        )
    return recipe.model_copy(update={"engine": engine, "visual": visual})
