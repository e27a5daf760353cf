"""Traps that cannot occur because mmbuild writes the commands: tested for every recipe and for random ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmbuild.backends.tensorrt_llm.toolchains.capabilities import refusals
from mmbuild.backends.tensorrt_llm.toolchains.commands import Command, commands
from mmbuild.backends.tensorrt_llm.toolchains.load import load_toolchain
from mmbuild.schema.resolved import ResolvedRecipe
from mmbuild.schema.tensorrt_llm_versions import SUPPORTED
from support.examples import examples
from support.toolchain.cases import ALGORITHMS, MODELS, load, rendered
from support.toolchain.strict_flags import RejectedError
from support.toolchain.trap_checks import CHECKS, Case, read

OLD, NEW = SUPPORTED[:3], SUPPORTED[3:]
# Checks that have something to look at in some versions only.
ONLY = {
    "12-the-quantizer-makes-calibrated-formats-of-at-most-32-samples": NEW,
    "17-builds-of-encoder-decoders-switch-their-attention-plugins-on": OLD[:2],
    "29-t5s-prompt-table-is-said-twice": ("0.10.0",),
    "c2-the-decoder-of-t5-has-no-prompt-table": SUPPORTED[2:],
}


@cache
def cases(version: str) -> tuple[Case, ...]:
    return tuple(read(variant, version, steps) for variant, steps in rendered(version))


@pytest.mark.parametrize("version", SUPPORTED)
@pytest.mark.parametrize("name", CHECKS)
def test_it_cannot_happen_in_any_recipe(name: str, version: str) -> None:
    seen = 0
    for case in cases(version):
        for right, what in CHECKS[name](case):
            assert right, (case.variant.name, what)
            seen += 1
    assert (seen > 0) == (version in ONLY.get(name, SUPPORTED))


# Features of a picture, positions, and whether the language model is a plain decoder.
SHAPES = {
    "flan-t5-xl": (32, 4000, False),
    "opt-2.7b": (32, 2048, True),
    "llava-fp16": (576, 4096, True),
    "vila-7b-fp16": (576, 4096, True),
    "vila1.5-3b-fp16": (196, 4096, True),
    "nougat-base": (588, 4096, False),
}


@st.composite
def overrides(draw: st.DrawFn) -> tuple[str, tuple[str, ...]]:
    """A model and engine numbers that it can have; some of them a version refuses."""
    model = draw(st.sampled_from(MODELS))
    features, positions, decoder = SHAPES[model]
    algorithm = draw(st.sampled_from(ALGORITHMS if decoder else ("none",)))
    images = draw(st.integers(1, 3)) if features in (196, 576) else 1
    answer = draw(st.integers(1, 400))
    longest = st.integers(images * features + 1, max(positions - answer, images * features + 1))
    fused = ["auto", "false"] + (["true"] if algorithm == "none" and features > 100 and decoder else [])
    numbers = {
        "quantization": algorithm,
        "dtype": draw(
            st.sampled_from(["bfloat16", "float32"] + ([] if model == "flan-t5-xl" else ["float16"]))
        ),
        "tensor_parallel": draw(st.sampled_from([1, 2, 4, 8])),
        "max_beam_width": draw(st.integers(1, 5)),
        "max_batch_size": draw(st.integers(1, 64)),
        "max_images_per_prompt": images,
        "max_input_len": 1 if model == "nougat-base" else draw(longest),
        "max_output_len": answer,
        "max_multimodal_len": "null",
        "tensorrt_llm.fused_mlp": draw(st.sampled_from(fused)),
    }
    return model, tuple(f"engine.{key}={value}" for key, value in numbers.items())


@pytest.mark.slow
@settings(max_examples=examples(200), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(drawn=overrides(), version=st.sampled_from(SUPPORTED))
def test_it_cannot_happen_with_any_recipe(drawn: tuple[str, tuple[str, ...]], version: str) -> None:
    model, settled = drawn
    for variant in load.__wrapped__(model, *settled):
        if not refusals(variant, load_toolchain(version)):
            held(variant, version)


words = st.sampled_from(
    ["vila", "VILA", "Vila", "a", "x.5", "my model", "-", "--help", ".", "..", "é", "$(id)"]
)
places = st.lists(words, min_size=1, max_size=4).map("".join)


@settings(max_examples=examples(100), deadline=None)
@given(
    place=st.lists(places, min_size=1, max_size=3).map("/".join),
    model=st.sampled_from(MODELS),
    version=st.sampled_from(SUPPORTED),
)
def test_it_cannot_happen_with_any_model_path(place: str, model: str, version: str) -> None:
    short = ("engine.max_input_len=500",) if model == "flan-t5-xl" else ()
    for variant in load(model, *short):
        source = {"source": f"/data/{place}", "revision": None}
        own = variant.recipe.model.model_copy(update=source)
        moved = replace(variant, recipe=variant.recipe.model_copy(update={"model": own}))
        if not refusals(moved, load_toolchain(version)):
            held(moved, version)


def held(variant: ResolvedRecipe, version: str) -> None:
    case = read(variant, version, commands(variant, load_toolchain(version)))
    for name, look in CHECKS.items():
        for right, what in look(case):
            assert right, (name, what)


Spoil = Callable[[list[str]], list[str]]


def without(flag: str, values: int = 1) -> Spoil:
    def spoil(argv: list[str]) -> list[str]:
        at = argv.index(flag)
        return argv[:at] + argv[at + 1 + values :]

    return spoil


def with_value(flag: str, value: str) -> Spoil:
    def spoil(argv: list[str]) -> list[str]:
        at = argv.index(flag)
        return [*argv[: at + 1], value, *argv[at + 2 :]]

    return spoil


def adding(*tokens: str) -> Spoil:
    return lambda argv: [*argv, *tokens]


REF, T5, NOUGAT = "0.9.0.dev2024040900", "flan-t5-xl", "nougat-base"
LLAVA, INT4 = "llava-fp16", "llava-int4"
TABLE = "--max_multimodal_len"
# Check, recipe, version, command, and what makes that command wrong.
SPOILT: Sequence[tuple[str, str, str, str, Spoil]] = [
    ("01", LLAVA, "1.2", "build_llm", with_value(TABLE, "575")),
    ("01", T5, REF, "build_llm", with_value(TABLE, "32")),
    ("02", LLAVA, REF, "build_llm", with_value(TABLE, "1")),
    ("03", LLAVA, "0.10.0", "build_llm", without(TABLE)),
    ("03", T5, "1.2", "build_encoder", with_value(TABLE, "0")),
    ("04", LLAVA, "0.12.0", "build_llm", with_value("--max_input_len", "576")),
    ("04", T5, "0.10.0", "build_decoder", with_value("--max_encoder_input_len", "32")),
    ("05", NOUGAT, REF, "build_llm", with_value(TABLE, "4704")),
    ("05", NOUGAT, "1.2", "build_decoder", with_value("--max_encoder_input_len", "4704")),
    ("06", T5, REF, "build_llm", without("--remove_input_padding", 0)),
    ("06", T5, "1.2", "build_encoder", with_value("--remove_input_padding", "disable")),
    ("07", INT4, REF, "build_llm", adding("--use_fused_mlp")),
    ("07", INT4, "1.2", "build_llm", without("--use_fused_mlp=disable", 0)),
    ("08", INT4, "0.10.0", "convert", without("--use_weight_only", 0)),
    ("09", T5, "0.12.0", "convert", adding("--use_weight_only")),
    ("10", LLAVA, REF, "convert", adding("--smoothquant", "0.5")),
    ("10", LLAVA, "1.2", "convert", adding("--int8_kv_cache")),
    ("13", LLAVA, REF, "convert", with_value("--model_dir", "/data/avila/llava")),
    ("13", "vila-7b-fp16", REF, "build_visual", with_value("--vila_path", "/opt/VILA")),
    ("15", LLAVA, "1.2", "convert", adding("--int8_kv_cache")),
    ("16", T5, "0.10.0", "build_decoder", without("--gpt_attention_plugin")),
    ("16", LLAVA, REF, "build_llm", with_value("--gemm_plugin", "bfloat16")),
    ("17", NOUGAT, "0.9.0", "build_llm", without("--use_bert_attention_plugin", 0)),
    ("18", T5, "1.2", "convert", with_value("--dtype", "float16")),
    ("20", LLAVA, "0.10.0", "build_llm", adding("--tp_size", "1")),
    ("20", T5, REF, "build_llm", adding("--world_size", "2")),
    ("22", "opt-2.7b", REF, "convert", adding("--use_parallel_embedding")),
    ("23", "opt-2.7b", "1.2", "build_llm", adding("--max_num_tokens", "100")),
    ("23", "opt-2.7b", REF, "build_llm", adding("--opt_num_tokens", "8")),
    ("24", LLAVA, "0.12.0", "build_llm", adding("--max_output_len", "512")),
    ("24", LLAVA, "1.2", "build_llm", with_value("--max_seq_len", "2048")),
    ("27", LLAVA, REF, "convert", without("--model_dir")),
    ("28", T5, REF, "build_llm", with_value("--engine_name", "t5")),
    ("28", LLAVA, REF, "run", with_value("--hf_model_dir", "tmp/hf_models/llava/")),
    ("29", T5, "0.10.0", "convert", without(TABLE)),
    ("30", LLAVA, REF, "build_visual", without("--model_path")),
    ("30", T5, REF, "build_visual", with_value("--model_type", "flan-t5-xxl")),
    ("32", LLAVA, REF, "run", with_value("--visual_engine_dir", "visual_engines/other")),
    ("33", LLAVA, REF, "build_llm", adding("--workers", "0")),
    ("34", LLAVA, REF, "convert", adding("--save_config_only")),
    ("c1", LLAVA, "1.2", "build_visual", without("--max_batch_size")),
    ("c1", T5, "0.10.0", "build_decoder", without("--max_batch_size")),
    ("c2", T5, "1.2", "build_decoder", adding(TABLE, "256")),
    ("c3", "opt-2.7b", "0.10.0", "build_visual", without("--output_dir")),
    ("c4", INT4, "1.2", "run", without("--max_new_tokens")),
]  # fmt: skip


def first(recipe: str, version: str) -> tuple[ResolvedRecipe, tuple[Command, ...]]:
    plain = ("engine.quantization=none",) if recipe.startswith("opt") else ()
    short = ("engine.max_input_len=512",) if (recipe, version) == (T5, "0.12.0") else ()
    (variant,) = load(recipe, *plain, *short)
    return variant, commands(variant, load_toolchain(version))


def named(prefix: str) -> str:
    (name,) = (name for name in CHECKS if name.startswith(f"{prefix}-"))
    return name


@pytest.mark.parametrize(
    ("prefix", "recipe", "version", "command", "spoil"),
    SPOILT,
    ids=[f"{row[0]}-{row[1]}-{row[2]}-{row[3]}" for row in SPOILT],
)
def test_a_check_sees_a_command_that_fell_into_the_trap(
    prefix: str, recipe: str, version: str, command: str, spoil: Spoil
) -> None:
    variant, steps = first(recipe, version)
    good = read(variant, version, steps)
    assert all(right for right, _ in CHECKS[named(prefix)](good))
    spoilt = [
        replace(step, groups=(tuple(spoil(list(step.argv))),)) if step.name == command else step
        for step in steps
    ]
    found = list(CHECKS[named(prefix)](read(variant, version, spoilt)))
    assert not all(right for right, _ in found)


def test_a_check_sees_a_runner_on_too_few_ranks() -> None:
    (variant,) = load("llava-7b-tp2")
    steps = commands(variant, load_toolchain("1.2"))
    spoilt = [replace(step, groups=step.groups[3:]) if step.step == "run" else step for step in steps]
    assert not all(right for right, _ in CHECKS[named("21")](read(variant, "1.2", spoilt)))


@pytest.mark.parametrize("spoil", [with_value("--qformat", "int4_wo"), with_value("--calib_size", "64")])
def test_a_check_finds_an_unsupported_quantizer_request(spoil: Spoil) -> None:
    (variant,) = load("llava-int4", "engine.quantization=int4_awq")
    steps = commands(variant, load_toolchain("1.2"))
    spoilt = [
        replace(step, groups=(tuple(spoil(list(step.argv))),)) if step.name == "quantize" else step
        for step in steps
    ]
    assert not all(right for right, _ in CHECKS[named("12")](read(variant, "1.2", spoilt)))


def test_a_check_sees_a_quantizer_that_cannot_read_the_model() -> None:
    (variant,) = load("llava-int4", "engine.quantization=int4_awq")
    case = read(variant, "1.2", commands(variant, load_toolchain("1.2")))
    assert not all(right for right, _ in CHECKS[named("11")](replace(case, version="0.12.0")))


def test_every_check_fails_for_a_wrong_command() -> None:
    # 19 is held by the strict reader itself: see test_strict_flags.py.
    spoilt = {row[0] for row in SPOILT} | {"11", "12", "19", "21"}
    assert spoilt == {name.partition("-")[0] for name in CHECKS}


def test_a_flag_is_never_cut_short() -> None:
    variant, steps = first(LLAVA, REF)
    spoilt = [
        replace(step, groups=(*step.groups, ("--max_multi", "5"))) if step.name == "build_llm" else step
        for step in steps
    ]
    with pytest.raises(RejectedError, match="is no flag"):
        read(variant, REF, spoilt)
