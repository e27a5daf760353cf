"""Rules: what a recipe may not say although each key alone is fine.

A rule names the keys it reads. One whose keys are already at fault stays silent, so that only root causes
are told. Faults name the key to blame first; the first that the user wrote gets the caret.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mmbuild.families.base import ModelFacts
from mmbuild.schema.diagnostics import Severity
from mmbuild.schema.model import WEIGHT_ONLY, Algorithm, Device, Family, Recipe
from mmbuild.schema.solve import ENCODER_DECODER, PER_SEQUENCE, multimodal_len, sequence_len, visual_batch

MIN_TEXT = 1


@dataclass(frozen=True, slots=True)
class Fault:
    """What a rule objects to.

    Attributes:
        code: Its code.
        blame: Dotted keys, the most likely culprit first.
        message: One sentence without a full stop.
        hint: What to do.
        severity: ``error`` or ``warning``.
    """

    code: str
    blame: tuple[str, ...]
    message: str
    hint: str | None = None
    severity: Severity = "error"


@dataclass(frozen=True, slots=True)
class RecipeRule:
    """A rule that reads the recipe alone."""

    reads: tuple[str, ...]
    judge: Callable[[Recipe], Iterator[Fault]]


@dataclass(frozen=True, slots=True)
class ModelRule:
    """A rule that reads the recipe and the model's facts."""

    reads: tuple[str, ...]
    judge: Callable[[Recipe, ModelFacts], Iterator[Fault]]


def _features(recipe: Recipe, facts: ModelFacts) -> Iterator[Fault]:
    stated, derivation = recipe.engine.num_visual_features, facts.visual.derivation
    if stated is not None and stated != derivation.value:
        yield Fault(
            "MM140",
            ("engine.num_visual_features",),
            f"num_visual_features is {stated} in the recipe, and {derivation.value} by the config.json of "
            f"`{recipe.model.source}`: {derivation.arithmetic}",
            f"Write {derivation.value}, leave the key out, or set the model.source that was meant",
        )


def _multimodal_len(recipe: Recipe, facts: ModelFacts) -> Iterator[Fault]:
    engine = recipe.engine
    stated, right = engine.max_multimodal_len, multimodal_len(recipe, facts.visual.num_visual_features)
    follows_stated_features = (
        engine.num_visual_features not in (None, facts.visual.num_visual_features)
        and stated == multimodal_len(recipe, engine.num_visual_features or 0).value
    )
    if stated is not None and stated != right.value and not follows_stated_features:
        yield Fault(
            "MM141",
            ("engine.max_multimodal_len",),
            f"max_multimodal_len is {stated}, and {right.arithmetic}",
            f"Write {right.value}, or leave the key out: it is computed",
        )


def _visual_batch(recipe: Recipe) -> Iterator[Fault]:
    stated, right = recipe.visual.max_batch_size, visual_batch(recipe)
    if stated is not None and stated != right.value:
        yield Fault(
            "MM142",
            ("visual.max_batch_size",),
            f"visual.max_batch_size is {stated}, and {right.arithmetic}",
            f"Write {right.value}, or leave the key out: it is computed",
        )


def _input_len(recipe: Recipe, facts: ModelFacts) -> Iterator[Fault]:
    engine, features = recipe.engine, facts.visual.num_visual_features
    if recipe.model.family in PER_SEQUENCE:
        return
    images = engine.max_images_per_prompt * features
    if engine.max_input_len < images + MIN_TEXT:
        yield Fault(
            "MM143",
            ("engine.max_input_len", "engine.max_images_per_prompt"),
            f"max_input_len {engine.max_input_len} leaves no room for text: max_images_per_prompt "
            f"{engine.max_images_per_prompt} x num_visual_features {features} = {images} are visual features",
            f"Raise max_input_len to {images} and the longest text",
        )


def _positions(recipe: Recipe, facts: ModelFacts) -> Iterator[Fault]:
    length, limit = sequence_len(recipe), facts.llm.max_position_embeddings
    if facts.llm.position_embedding_type != "relative" and length.value > limit:
        longest = sorted(
            ("engine.max_input_len", "engine.max_output_len"),
            key=lambda key: -int(getattr(recipe.engine, key.partition(".")[2])),
        )
        yield Fault(
            "MM144",
            tuple(longest),
            f"{length.arithmetic}, more than the model's max_position_embeddings {limit}",
            f"Lower the two to {limit} together",
        )


def _heads(recipe: Recipe, facts: ModelFacts) -> Iterator[Fault]:
    ranks, llm = recipe.engine.tensor_parallel, facts.llm
    blame = ("engine.tensor_parallel",)
    for name, value in (
        ("num_attention_heads", llm.num_attention_heads),
        ("intermediate_size", llm.intermediate_size),
    ):
        if value % ranks:
            both = math.gcd(llm.num_attention_heads, llm.intermediate_size)
            possible = [ways for ways in range(1, 9) if both % ways == 0]
            yield Fault(
                "MM147",
                blame,
                f"tensor_parallel {ranks} does not divide the model's {name} {value}",
                f"Possible here: {', '.join(map(str, possible))}",
            )
    heads = llm.num_key_value_heads
    root_cause_told = llm.num_attention_heads % ranks != 0
    if heads % ranks and ranks % heads and not root_cause_told:
        yield Fault(
            "MM148",
            blame,
            f"tensor_parallel {ranks} neither divides the model's num_key_value_heads {heads} "
            "nor is a multiple of it",
            "Key and value heads are split over ranks, or copied to a whole number of ranks each",
        )


def _encoder_decoder(recipe: Recipe) -> Iterator[Fault]:
    algorithm = recipe.engine.quantization.algorithm
    if recipe.model.family in ENCODER_DECODER and algorithm in WEIGHT_ONLY:
        yield Fault(
            "MM145",
            ("engine.quantization.algorithm", "model.family"),
            f"{algorithm} is refused for family {recipe.model.family}: "
            "its language model is an encoder-decoder",
            "Set engine.quantization to none, and engine.dtype to bfloat16 or float16",
        )


def _fused_mlp(recipe: Recipe) -> Iterator[Fault]:
    algorithm = recipe.engine.quantization.algorithm
    if recipe.engine.tensorrt_llm.fused_mlp is True and algorithm is not Algorithm.NONE:
        yield Fault(
            "MM146",
            ("engine.tensorrt_llm.fused_mlp", "engine.quantization.algorithm"),
            f"fused_mlp is refused with quantization {algorithm}",
            "Write `fused_mlp: auto`, which fuses only where it is allowed",
        )


def _group_size(recipe: Recipe) -> Iterator[Fault]:
    quantization = recipe.engine.quantization
    if quantization.group_size is not None and quantization.algorithm is not Algorithm.INT4_AWQ:
        yield Fault(
            "MM150",
            ("engine.quantization.group_size",),
            f"group_size belongs to int4_awq; {quantization.algorithm} has no groups",
            "Remove group_size",
        )
    if quantization.calibration is not None and quantization.algorithm is Algorithm.NONE:
        yield Fault(
            "MM151",
            ("engine.quantization.calibration.data",),
            "calibration data is given, and nothing is quantized",
            "Set engine.quantization.algorithm, or remove calibration",
        )


def _target(recipe: Recipe) -> Iterator[Fault]:
    target = recipe.target
    if target is not None and target.device is Device.CPU and target.sm is not None:
        yield Fault(
            "MM152",
            ("target.sm",),
            f"target.sm {target.sm} is given for device cpu",
            "Remove sm, or set target.device to cuda",
        )


def _revision(recipe: Recipe) -> Iterator[Fault]:
    for key, part in (("model", recipe.model), ("model.vision", recipe.model.vision)):
        if part is not None and part.revision is not None and not part.source.startswith("hf://"):
            yield Fault(
                "MM153",
                (f"{key}.revision",),
                f"{key}.revision means something for hf:// sources only, and is not used",
                f"Remove {key}.revision",
                "warning",
            )


def _vision(recipe: Recipe) -> Iterator[Fault]:
    for key in ("vision", "code"):
        if recipe.model.family in (Family.LLAVA, Family.NOUGAT) and getattr(recipe.model, key) is not None:
            yield Fault(
                "MM154",
                (f"model.{key}.source", f"model.{key}"),
                f"family {recipe.model.family} has everything in one source; model.{key} is not used",
                f"Remove model.{key}",
            )


_LENGTHS = ("engine.max_input_len", "engine.max_output_len")
_BATCH = ("engine.max_batch_size", "engine.max_images_per_prompt")

RECIPE_RULES: tuple[RecipeRule, ...] = (
    RecipeRule(("visual.max_batch_size", *_BATCH), _visual_batch),
    RecipeRule(("model.family", "engine.quantization"), _encoder_decoder),
    RecipeRule(("engine.tensorrt_llm", "engine.quantization"), _fused_mlp),
    RecipeRule(("engine.quantization",), _group_size),
    RecipeRule(("target",), _target),
    RecipeRule(("model",), _revision),
    RecipeRule(("model",), _vision),
)

MODEL_RULES: tuple[ModelRule, ...] = (
    ModelRule(("engine.num_visual_features",), _features),
    ModelRule(("engine.max_multimodal_len", *_BATCH), _multimodal_len),
    ModelRule(("engine.max_input_len", "engine.max_images_per_prompt"), _input_len),
    ModelRule(_LENGTHS, _positions),
    ModelRule(("engine.tensor_parallel",), _heads),
)


def _within(inner: str, outer: str) -> bool:
    return f"{inner}.".startswith(f"{outer}.")


def judge(recipe: Recipe, facts: ModelFacts | None, faulty: set[str]) -> Iterator[Fault]:
    """All faults of ``recipe``, by every rule that reads nothing in ``faulty`` (dotted paths)."""

    def silent(reads: tuple[str, ...]) -> bool:
        return any(_within(bad, key) or _within(key, bad) for key in reads for bad in faulty)

    for rule in RECIPE_RULES:
        if not silent(rule.reads):
            yield from rule.judge(recipe)
    if facts is None:
        return
    for model_rule in MODEL_RULES:
        if not silent(model_rule.reads):
            yield from model_rule.judge(recipe, facts)
