"""Rules that validate combinations of keys in a recipe.

A rule declares the keys it reads. It is skipped if one of them already has a violation, so that only root causes are
reported. Violations list the key to blame first; the caret points at the first one that the user wrote.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mmbuild.base.diagnostics import Violation, touches
from mmbuild.base.errors import MmbuildError
from mmbuild.models.families.facts import LlmFacts, ModelFacts
from mmbuild.schema import tensorrt_llm_versions
from mmbuild.schema.calibration_rules import float8_gpu, generated_pictures
from mmbuild.schema.exclusive_settings import combinations
from mmbuild.schema.gate_rules import gates_beyond_length, gates_on_random_weights, gates_without_verify
from mmbuild.schema.linear_shapes import (
    GROUP_SIZES,
    divides,
    group_size,
    stacks,
    unfit_for_groups,
    unfit_for_pairs,
)
from mmbuild.schema.model import (
    CALIBRATED,
    FITTED,
    MOST_RANKS,
    MOST_ROWS,
    PAIRED,
    WEIGHT_ONLY,
    Algorithm,
    Backend,
    Recipe,
)
from mmbuild.schema.solver import multimodal_len, sequence_len, traits, visual_batch

MIN_TEXT = 1


@dataclass(frozen=True, slots=True)
class RecipeRule:
    """A rule that reads only the recipe. After a violation, rules that read what it ``settles`` are skipped."""

    reads: tuple[str, ...]
    check: Callable[[Recipe], Iterator[Violation]]
    settles: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelRule:
    """A rule that reads the recipe and the model's facts."""

    reads: tuple[str, ...]
    check: Callable[[Recipe, ModelFacts], Iterator[Violation]]


def _features(recipe: Recipe, facts: ModelFacts) -> Iterator[Violation]:
    stated, derivation = recipe.engine.num_visual_features, facts.visual.derivation
    if stated is not None and stated != derivation.value:
        yield Violation(
            "MM140",
            ("engine.num_visual_features",),
            f"num_visual_features is {stated} in the recipe, but {derivation.value} according to the config.json of "
            f"`{recipe.model.source}`: {derivation.arithmetic}",
            f"set it to {derivation.value}, omit the key, or correct model.source",
        )


def _multimodal_len(recipe: Recipe, facts: ModelFacts) -> Iterator[Violation]:
    engine = recipe.engine
    stated, derived = engine.max_multimodal_len, multimodal_len(recipe, facts.visual.num_visual_features)
    follows_stated_features = (
        engine.num_visual_features not in (None, facts.visual.num_visual_features)
        and stated == multimodal_len(recipe, engine.num_visual_features or 0).value
    )
    if stated is not None and stated != derived.value and not follows_stated_features:
        yield Violation(
            "MM141",
            ("engine.max_multimodal_len",),
            f"max_multimodal_len is {stated}, but {derived.arithmetic}",
            f"set it to {derived.value}, or omit the key: it is computed",
        )


def _visual_batch(recipe: Recipe) -> Iterator[Violation]:
    stated, derived = recipe.visual.max_batch_size, visual_batch(recipe)
    if stated is not None and stated != derived.value:
        yield Violation(
            "MM142",
            ("visual.max_batch_size",),
            f"visual.max_batch_size is {stated}, but {derived.arithmetic}",
            f"set it to {derived.value}, or omit the key: it is computed",
        )


def _full_batch(recipe: Recipe) -> Iterator[Violation]:
    # Visual features are part of max_input_len, so this bounds max_multimodal_len too.
    batch, length = recipe.engine.max_batch_size, recipe.engine.max_input_len
    if batch * length > MOST_ROWS:
        yield Violation(
            "MM113",
            ("engine.max_batch_size", "engine.max_input_len"),
            f"max_batch_size {batch} x max_input_len {length} = {batch * length} tokens in a full batch, "
            f"more than {MOST_ROWS}",
            f"lower max_batch_size to {MOST_ROWS // length} or less",
        )


def _input_len(recipe: Recipe, facts: ModelFacts) -> Iterator[Violation]:
    engine, features = recipe.engine, facts.visual.num_visual_features
    if traits(recipe).cross_attention:
        return
    images = engine.max_images_per_prompt * features
    if engine.max_input_len < images + MIN_TEXT:
        yield Violation(
            "MM143",
            ("engine.max_input_len", "engine.max_images_per_prompt"),
            f"max_input_len {engine.max_input_len} leaves no room for text: max_images_per_prompt "
            f"{engine.max_images_per_prompt} x num_visual_features {features} = {images} are visual features",
            f"raise max_input_len to {images} plus the length of the longest text",
        )


def _positions(recipe: Recipe, facts: ModelFacts) -> Iterator[Violation]:
    length, limit = sequence_len(recipe), facts.llm.max_position_embeddings
    if facts.llm.position_embedding_type == "relative" or length.value <= limit:
        return
    if traits(recipe).encoder_decoder:
        blame: tuple[str, ...] = ("engine.max_output_len",)
        hint = f"lower max_output_len to {limit - 1}"
    else:
        longest = sorted(_LENGTHS, key=lambda key: -int(getattr(recipe.engine, key.partition(".")[2])))
        blame, hint = tuple(longest), f"lower both to a sum of {limit} or less"
    yield Violation(
        "MM144",
        blame,
        f"{length.arithmetic}, more than the model's max_position_embeddings {limit}",
        hint,
    )


def _heads(recipe: Recipe, facts: ModelFacts) -> Iterator[Violation]:
    stacks = [("the model's", facts.llm)]
    if facts.encoder is not None and _parts(facts.encoder) != _parts(facts.llm):
        stacks.append(("its encoder's", facts.encoder))
    for whose, llm in stacks:
        yield from _check_split(recipe.engine.tensor_parallel, whose, llm)


def _parts(llm: LlmFacts) -> tuple[int, int, int]:
    """The sizes that are split over ranks."""
    return llm.num_attention_heads, llm.intermediate_size, llm.num_key_value_heads


def _check_split(ranks: int, whose: str, llm: LlmFacts) -> Iterator[Violation]:
    blame = ("engine.tensor_parallel",)
    sizes = {name: getattr(llm, name) for name in ("num_attention_heads", "intermediate_size")}
    wrong = [f"{name} {value}" for name, value in sizes.items() if value % ranks]
    if wrong:
        both = math.gcd(*sizes.values())
        possible = [str(ways) for ways in range(1, MOST_RANKS + 1) if both % ways == 0]
        yield Violation(
            "MM147",
            blame,
            f"tensor_parallel {ranks} does not divide {whose} {' and '.join(wrong)}",
            f"possible values: {', '.join(possible)}",
        )
    heads = llm.num_key_value_heads
    root_cause_reported = llm.num_attention_heads % ranks != 0
    if heads % ranks and ranks % heads and not root_cause_reported:
        yield Violation(
            "MM148",
            blame,
            f"tensor_parallel {ranks} is neither a divisor nor a multiple of {whose} num_key_value_heads {heads}",
            "key and value heads are split evenly over ranks, or each is copied to a whole number of ranks",
        )


def _groups(recipe: Recipe, facts: ModelFacts) -> Iterator[Violation]:
    quantization, ranks = recipe.engine.quantization, recipe.engine.tensor_parallel
    stated = quantization.group_size
    group = stated or group_size(facts, ranks) or GROUP_SIZES[-1]
    grouped = stated is not None or quantization.algorithm is Algorithm.INT4_AWQ
    if not grouped or not _split(facts, ranks):
        return
    wrong = unfit_for_groups(facts, ranks, group)
    if wrong:
        layers = ", ".join(f"{layer.name} {layer.inputs}" for layer in wrong)
        yield Violation(
            "MM162",
            ("engine.quantization.group_size",)
            if stated
            else ("engine.tensor_parallel", "engine.quantization.algorithm"),
            f"groups of {group} do not divide the inputs per rank with tensor_parallel {ranks}: {layers}",
            _groups_that_fit(facts),
        )


def _pairs(recipe: Recipe, facts: ModelFacts) -> Iterator[Violation]:
    """Two int4 values of neighbouring outputs share a byte; checkpoints of backend hf pack along the inputs."""
    engine = recipe.engine
    paired = engine.quantization.algorithm in PAIRED and engine.backend is not Backend.HF
    if not paired or not _split(facts, engine.tensor_parallel):
        return
    wrong = unfit_for_pairs(facts, engine.tensor_parallel)
    if wrong:
        layers = ", ".join(f"{layer.name} {layer.outputs}" for layer in wrong)
        ways = (ranks for ranks in range(1, MOST_RANKS + 1) if _split(facts, ranks))
        fitting = [str(ranks) for ranks in ways if not unfit_for_pairs(facts, ranks)]
        yield Violation(
            "MM437",
            ("engine.tensor_parallel", "engine.quantization.algorithm"),
            f"outputs per rank are odd with tensor_parallel {engine.tensor_parallel}, and do not pack two to a byte: "
            f"{layers}",
            f"possible tensor_parallel: {', '.join(fitting)}"
            if fitting
            else "set engine.quantization to int8",
        )


def _groups_that_fit(facts: ModelFacts) -> str:
    ways = [ranks for ranks in range(1, MOST_RANKS + 1) if _split(facts, ranks)]
    fits = {
        group: [str(ranks) for ranks in ways if not unfit_for_groups(facts, ranks, group)]
        for group in GROUP_SIZES
    }
    lines = [
        f"group_size {group} with tensor_parallel {', '.join(fitting)}"
        for group, fitting in fits.items()
        if fitting
    ]
    return f"possible values: {'; '.join(lines)}" if lines else "set engine.quantization to int8 or int4"


def _split(facts: ModelFacts, ranks: int) -> bool:
    return all(divides(llm, ranks) for llm in stacks(facts))


def _encoder_decoder(recipe: Recipe) -> Iterator[Violation]:
    algorithm = recipe.engine.quantization.algorithm
    # The toolchain rules report what TensorRT-LLM cannot calibrate.
    unsupported = algorithm in (WEIGHT_ONLY | CALIBRATED if recipe.engine.backend in FITTED else WEIGHT_ONLY)
    if traits(recipe).encoder_decoder and unsupported:
        yield Violation(
            "MM145",
            ("engine.quantization.algorithm", "model.family"),
            f"{algorithm} is not supported for family {recipe.model.family}: "
            "its language model is an encoder-decoder",
            f"set engine.quantization to none, and engine.dtype to {_choice(traits(recipe).dtypes)}",
        )


def _dtype(recipe: Recipe) -> Iterator[Violation]:
    dtypes = traits(recipe).dtypes
    if recipe.engine.dtype not in dtypes:
        yield Violation(
            "MM156",
            ("engine.dtype", "model.family"),
            f"dtype {recipe.engine.dtype} is not supported for family {recipe.model.family}: "
            "activations of its language model overflow that format",
            f"set engine.dtype to {_choice(dtypes)}",
        )


def _choice(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _start_token(recipe: Recipe) -> Iterator[Violation]:
    length = recipe.engine.max_input_len
    if traits(recipe).cross_attention and length != 1:
        yield Violation(
            "MM155",
            ("engine.max_input_len",),
            f"max_input_len is {length}, but family {recipe.model.family} takes no text: "
            "its decoder starts from one token, and visual features go to cross-attention",
            "set it to 1",
        )


def _images(recipe: Recipe) -> Iterator[Violation]:
    limit, stated = traits(recipe).most_images_per_prompt, recipe.engine.max_images_per_prompt
    if limit is not None and stated > limit:
        yield Violation(
            "MM157",
            ("engine.max_images_per_prompt",),
            f"max_images_per_prompt is {stated}, but family {recipe.model.family} supports {limit}",
            f"set it to {limit}, or omit the key; send several pictures as several prompts, see max_batch_size",
        )


def _toolchain(recipe: Recipe) -> Iterator[Violation]:
    try:
        tensorrt_llm_versions.require(recipe.engine.tensorrt_llm.toolchain)
    except MmbuildError as error:
        yield Violation(error.code, ("engine.tensorrt_llm.toolchain",), error.message, error.hint)


def _revision(recipe: Recipe) -> Iterator[Violation]:
    for key, part in (("model", recipe.model), ("model.vision", recipe.model.vision)):
        if part is not None and part.revision is not None and not part.source.startswith("hf://"):
            yield Violation(
                "MM153",
                (f"{key}.revision",),
                f"{key}.revision applies only to hf:// sources and is ignored",
                f"remove {key}.revision",
                "warning",
            )


def _second_sources(recipe: Recipe) -> Iterator[Violation]:
    for key in ("vision", "code"):
        if key not in traits(recipe).second_sources and getattr(recipe.model, key) is not None:
            yield Violation(
                "MM154",
                (f"model.{key}.source", f"model.{key}"),
                f"family {recipe.model.family} has no second source of this kind; model.{key} is ignored",
                f"remove model.{key}",
            )


def _verified_tokens(recipe: Recipe) -> Iterator[Violation]:
    verify, most = recipe.verify, recipe.engine.max_output_len
    # The default is for engines of any length.
    if verify is None or "max_new_tokens" not in verify.model_fields_set or verify.max_new_tokens <= most:
        return
    yield Violation(
        "MM158",
        ("verify.max_new_tokens",),
        f"verify.max_new_tokens is {verify.max_new_tokens}, but the engine generates, and verify compares, at most "
        f"{most} tokens",
        f"use {most}, or raise engine.max_output_len",
        "warning",
    )


_LENGTHS = ("engine.max_input_len", "engine.max_output_len")
_IMAGES = "engine.max_images_per_prompt"
_BATCH = ("engine.max_batch_size", _IMAGES)

RECIPE_RULES: tuple[RecipeRule, ...] = (
    RecipeRule(("model.family", _IMAGES), _images, settles=(_IMAGES,)),
    RecipeRule(("visual.max_batch_size", *_BATCH), _visual_batch),
    RecipeRule(("engine.max_batch_size", "engine.max_input_len"), _full_batch),
    RecipeRule(("model.family", "engine.quantization"), _encoder_decoder),
    RecipeRule(("engine.tensorrt_llm.toolchain",), _toolchain),
    *(RecipeRule(tuple(row.when), row.check) for row in combinations()),
    RecipeRule(("model",), _revision),
    RecipeRule(("model",), _second_sources),
    RecipeRule(("model.family", "engine.dtype"), _dtype),
    RecipeRule(("model.family", "engine.max_input_len"), _start_token),
    RecipeRule(("gates", "verify", "engine.backend"), gates_without_verify),
    RecipeRule(
        ("gates.min_greedy_prefix", "verify.max_new_tokens", "engine.max_output_len"),
        gates_beyond_length,
        settles=("verify.max_new_tokens",),
    ),
    RecipeRule(("gates", "model.source"), gates_on_random_weights),
    RecipeRule(("verify.max_new_tokens", "engine.max_output_len"), _verified_tokens),
    RecipeRule(("engine.quantization", "target"), float8_gpu),
)

MODEL_RULES: tuple[ModelRule, ...] = (
    ModelRule(("engine.num_visual_features",), _features),
    ModelRule(("engine.max_multimodal_len", *_BATCH), _multimodal_len),
    ModelRule(("engine.max_input_len", _IMAGES), _input_len),
    ModelRule(_LENGTHS, _positions),
    ModelRule(("engine.tensor_parallel",), _heads),
    ModelRule(("engine.tensor_parallel", "engine.quantization"), _groups),
    ModelRule(("engine.tensor_parallel", "engine.quantization"), _pairs),
    ModelRule(("engine.quantization", "model.source"), generated_pictures),
)


def check_rules(recipe: Recipe, facts: ModelFacts | None, faulty: set[str]) -> Iterator[Violation]:
    """All violations in ``recipe``, from every rule that reads no key in ``faulty`` (dotted paths)."""
    faulty = set(faulty)
    for rule in RECIPE_RULES:
        if not touches(rule.reads, faulty):
            violations = list(rule.check(recipe))
            yield from violations
            faulty.update(rule.settles if violations else ())
    if facts is None:
        return
    for model_rule in MODEL_RULES:
        if not touches(model_rule.reads, faulty):
            yield from model_rule.check(recipe, facts)
