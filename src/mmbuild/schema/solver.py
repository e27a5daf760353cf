"""The solver: derives numbers from others and keeps their arithmetic."""

from __future__ import annotations

from mmbuild.models.calibration_data.samples import DEFAULT_SAMPLES
from mmbuild.models.families import family
from mmbuild.models.families.facts import Derivation, ModelFacts, Traits
from mmbuild.schema.calibration_rules import is_fitted_by_mmbuild
from mmbuild.schema.linear_shapes import group_size
from mmbuild.schema.model import Algorithm, Backend, Quantization, Recipe, VisualBackend

_FOLLOWS = {Backend.TENSORRT_LLM: VisualBackend.TENSORRT, Backend.TORCH: VisualBackend.TORCH}


def traits(recipe: Recipe) -> Traits:
    """The traits of the recipe's family."""
    return family(recipe.model.family).TRAITS


def visual_batch(recipe: Recipe) -> Derivation:
    """Maximum batch size of the visual engine, in images."""
    engine = recipe.engine
    value = engine.max_batch_size * engine.max_images_per_prompt
    batch, images = engine.max_batch_size, engine.max_images_per_prompt
    arithmetic = f"max_batch_size {batch} x max_images_per_prompt {images} = {value}"
    return Derivation("visual.max_batch_size", value, arithmetic)


def multimodal_len(recipe: Recipe, features: int) -> Derivation:
    """Rows of the prompt table for ``features`` visual features per image."""
    engine = recipe.engine
    # Cross-attention reads the features of one sequence at a time: the batch size does not multiply them.
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
    """Maximum sequence length of the decoder: prompt and answer, or start token and answer."""
    engine = recipe.engine
    if traits(recipe).encoder_decoder:
        value = 1 + engine.max_output_len
        arithmetic = f"1 start token + max_output_len {engine.max_output_len} = {value}"
        return Derivation("max_seq_len", value, arithmetic)
    value = engine.max_input_len + engine.max_output_len
    arithmetic = f"max_input_len {engine.max_input_len} + max_output_len {engine.max_output_len} = {value}"
    return Derivation("max_seq_len", value, arithmetic)


def _padded_vocab(recipe: Recipe, facts: ModelFacts) -> Derivation:
    """Rows of the output head, padded to a multiple of the number of ranks."""
    ranks, vocab = recipe.engine.tensor_parallel, facts.llm.vocab_size
    value = -(-vocab // ranks) * ranks
    return Derivation(
        "padded_vocab_size", value, f"vocab_size {vocab}, padded to a multiple of {ranks} = {value}"
    )


def derivations(recipe: Recipe, facts: ModelFacts) -> tuple[Derivation, ...]:
    """All derived numbers, in the order of derivation."""
    features = facts.visual.num_visual_features
    derived = [
        facts.visual.derivation,
        multimodal_len(recipe, features),
        visual_batch(recipe),
        sequence_len(recipe),
    ]
    if recipe.engine.tensor_parallel > 1:
        derived.append(_padded_vocab(recipe, facts))
    if is_fitted_by_mmbuild(recipe.engine):
        derived.append(_calibration_samples(recipe))
    return tuple(derived)


def _calibration_samples(recipe: Recipe) -> Derivation:
    """Number of calibration samples, and their source."""
    calibration = recipe.engine.quantization.calibration
    count = calibration.samples if calibration else DEFAULT_SAMPLES
    origin = (
        f"drawn from `{calibration.data}` with seed {calibration.seed}"
        if calibration
        else "generated pictures: no data is given"
    )
    return Derivation("calibration.samples", count, f"{count} {origin}")


def _quantization(recipe: Recipe, facts: ModelFacts) -> Quantization:
    """The recipe's quantization, with a group size if the algorithm has groups and the recipe states none."""
    stated, ranks = recipe.engine.quantization, recipe.engine.tensor_parallel
    if stated.algorithm is not Algorithm.INT4_AWQ or stated.group_size is not None:
        return stated
    return stated.model_copy(update={"group_size": group_size(facts, ranks)})


def solve(recipe: Recipe, facts: ModelFacts | None) -> Recipe:
    """Return ``recipe`` with derived values filled in; without facts, except those that need them."""
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
