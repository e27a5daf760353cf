"""Each version refuses what it cannot build, with the reason, and accepts the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from mmbuild.backends.tensorrt_llm.toolchains.capabilities import notes, refusals
from mmbuild.backends.tensorrt_llm.toolchains.commands import commands
from mmbuild.backends.tensorrt_llm.toolchains.load import load_toolchain
from mmbuild.backends.tensorrt_llm.toolchains.model import Note, Unsupported
from mmbuild.backends.tensorrt_llm.toolchains.tasks import tasks
from mmbuild.backends.tensorrt_llm.toolchains.template import holds
from mmbuild.backends.tensorrt_llm.toolchains.template_context import variables
from mmbuild.schema.model import Algorithm, Calibration, Quantization, VisionSource
from mmbuild.schema.resolved import ResolvedRecipe
from mmbuild.schema.tensorrt_llm_versions import SUPPORTED, ToolchainError
from support.errors import refused
from support.toolchain.cases import MODELS, everything, load
from support.toolchain.trap_checks import read

CALIBRATED = ("int4_awq", "smoothquant", "fp8")
OLD = ("0.9.0.dev2024040900", "0.9.0", "0.10.0")
DECODERS = {"blip2-opt": "opt-2.7b", "llava": "llava-fp16", "vila": "vila-7b-fp16"}


def refusal_codes(variant: ResolvedRecipe, version: str) -> list[str]:
    return [error.code for error in refusals(variant, load_toolchain(version))]


def shaped(model: str, algorithm: str, *overrides: str) -> ResolvedRecipe:
    fused = ("engine.tensorrt_llm.fused_mlp=auto",) if model.endswith("fp16") else ()
    return load(model, f"engine.quantization={algorithm}", *fused, *overrides)[0]


def quantized(variant: ResolvedRecipe, quantization: Quantization) -> ResolvedRecipe:
    """``variant`` with a quantization that bypasses the schema rules, to test the toolchain's own check."""
    engine = variant.recipe.engine.model_copy(update={"quantization": quantization})
    return replace(variant, recipe=variant.recipe.model_copy(update={"engine": engine}))


def with_vocab(variant: ResolvedRecipe, size: int) -> ResolvedRecipe:
    return replace(variant, facts=replace(variant.facts, llm=replace(variant.facts.llm, vocab_size=size)))


def with_vision(variant: ResolvedRecipe, source: str) -> ResolvedRecipe:
    model = variant.recipe.model.model_copy(update={"vision": VisionSource(source=source)})
    return replace(variant, recipe=variant.recipe.model_copy(update={"model": model}))


# Family, algorithm -> versions that build it.
BUILT = {
    **{(family, algorithm): SUPPORTED for family in DECODERS for algorithm in ("none", "int8", "int4")},
    ("llava", "int4_awq"): ("1.2",),
    ("vila", "int4_awq"): ("0.12.0", "1.2"),
    **{(family, algorithm): ("1.2",) for family in ("llava", "vila") for algorithm in ("smoothquant", "fp8")},
}


@pytest.mark.parametrize("version", SUPPORTED)
@pytest.mark.parametrize("algorithm", ["none", "int8", "int4", *CALIBRATED])
@pytest.mark.parametrize("family", DECODERS)
def test_precisions_by_family_and_version(family: str, algorithm: str, version: str) -> None:
    expected = [] if version in BUILT.get((family, algorithm), ()) else ["MM603"]
    assert refusal_codes(shaped(DECODERS[family], algorithm), version) == expected


@pytest.mark.parametrize("version", SUPPORTED)
@pytest.mark.parametrize("model", ["flan-t5-xl", "nougat-base"])
def test_encoder_decoders_are_only_built_unquantized(model: str, version: str) -> None:
    (plain,) = load(model, *(["engine.max_input_len=512"] if model == "flan-t5-xl" else []))
    assert refusal_codes(plain, version) == []
    for algorithm in CALIBRATED:  # the schema already refuses weight-only
        variant = quantized(plain, Quantization(algorithm=Algorithm(algorithm)))
        assert "MM603" in refusal_codes(variant, version)


@pytest.mark.parametrize("version", SUPPORTED)
def test_a_whole_blip2_checkpoint(version: str) -> None:
    for path in ("demo/blip2-opt", "demo/blip2-t5"):
        assert refusal_codes(load(path)[0], version) == (["MM604"] if version in OLD else [])


@pytest.mark.parametrize("version", SUPPORTED)
def test_a_tower_that_the_visual_builder_does_not_fetch(version: str) -> None:
    (variant,) = load("opt-6.7b", "engine.quantization=none")
    assert refusal_codes(variant, version) == (["MM604"] if version == "0.9.0" else [])
    assert refusal_codes(with_vision(variant, "/models/blip2"), version) == (
        ["MM604"] if version in OLD else []
    )


@pytest.mark.parametrize("version", SUPPORTED)
def test_vila_in_its_newer_layout(version: str) -> None:
    assert refusal_codes(load("vila1.5-3b-fp16")[0], version) == (["MM604"] if version in OLD else [])
    assert refusal_codes(load("vila-7b-fp16")[0], version) == []


@pytest.mark.parametrize("version", SUPPORTED)
@pytest.mark.parametrize(("length", "fits"), [(512, True), (513, False), (924, False)])
def test_one_version_bounds_t5_by_512_positions(length: int, fits: bool, version: str) -> None:
    (variant,) = load("flan-t5-xl", f"engine.max_input_len={length}")
    assert refusal_codes(variant, version) == ([] if fits or version != "0.12.0" else ["MM605"])


@pytest.mark.parametrize("version", SUPPORTED)
def test_opts_head_must_divide_among_ranks(version: str) -> None:
    (variant,) = load("opt-2.7b", "engine.quantization=none", "engine.tensor_parallel=4")
    assert refusal_codes(variant, version) == []
    odd = with_vocab(variant, 50273)
    assert refusal_codes(odd, version) == ["MM605"]


def on_pictures(variant: ResolvedRecipe, algorithm: str, **more: Any) -> ResolvedRecipe:
    """``variant`` with a quantization calibrated on the recipe's data."""
    data = Calibration(data="data.jsonl")
    return quantized(variant, Quantization(algorithm=Algorithm(algorithm), calibration=data, **more))


@pytest.mark.parametrize("version", SUPPORTED)
@pytest.mark.parametrize("algorithm", CALIBRATED)
@pytest.mark.parametrize("model", ["llava-fp16", "vila-7b-fp16"])
def test_limits_of_the_quantizer_do_not_apply_if_mmbuild_calibrates(
    model: str, algorithm: str, version: str
) -> None:
    variant = on_pictures(shaped(model, "none"), algorithm)
    # That the page describes no fp8 for VILA may be for other reasons than the quantizer's.
    described = (model, algorithm, version) != ("vila-7b-fp16", "fp8", "0.12.0")
    assert refusal_codes(variant, version) == ([] if described else ["MM603"])


@pytest.mark.parametrize("version", SUPPORTED)
@pytest.mark.parametrize("algorithm", CALIBRATED)
def test_what_the_checkpoint_reader_rejects_is_refused_with_data_too(algorithm: str, version: str) -> None:
    wide = shaped("llava-fp16", "none", "engine.dtype=float32")
    assert refusal_codes(on_pictures(wide, algorithm), version) == ["MM169"]
    assert refusal_codes(on_pictures(shaped("opt-2.7b", "none"), algorithm), version) == ["MM603"]


def test_the_gpu_and_the_size_of_layers_hold_with_data_too() -> None:
    fp8 = on_pictures(shaped("llava-fp16", "none"), "fp8")
    assert [error.code for error in refusals(fp8, load_toolchain("1.2"), sm=80)] == ["MM640"]
    odd = on_pictures(shaped("vila1.5-3b-fp16", "none", "engine.tensor_parallel=4"), "int4_awq")
    assert refusal_codes(odd, "1.2") == refusal_codes(
        shaped("vila1.5-3b-fp16", "int4_awq", "engine.tensor_parallel=4"), "1.2"
    )


@pytest.mark.parametrize("version", SUPPORTED)
@pytest.mark.parametrize("algorithm", ["int8", "int4"])
@pytest.mark.parametrize("family", DECODERS)
def test_weights_that_converters_permute_take_no_data(family: str, algorithm: str, version: str) -> None:
    variant = on_pictures(shaped(DECODERS[family], "none"), algorithm)
    assert refusal_codes(variant, version) == ["MM606"]
    error = refused(ToolchainError, "MM606", commands, variant, load_toolchain(version))
    assert "permutes" in error.message
    assert "calibration" in str(error.hint)


@pytest.mark.parametrize("version", SUPPORTED)
@pytest.mark.parametrize("algorithm", CALIBRATED)
def test_no_command_quantizes_what_mmbuild_calibrates(algorithm: str, version: str) -> None:
    """The commands that are left are accepted by the version's programs; fp8 says what upstream's pages say."""
    variant = on_pictures(shaped("llava-fp16", "none", "engine.tensor_parallel=2"), algorithm)
    calls = read(variant, version, commands(variant, load_toolchain(version))).calls
    assert [call.step for call in calls] == ["build_llm", "build_visual", "run", "run", "run"]
    typed = "--strongly_typed" in calls[0].given
    assert typed == (algorithm == "fp8" and version in OLD)
    assert calls[0].given.get("--use_fused_mlp") in (None, "disable")
    build = next(task for task in tasks(variant, load_toolchain(version)) if task.step == "build_llm")
    assert build.reads == {"checkpoint": calls[0].given["--checkpoint_dir"]}


@pytest.mark.parametrize("version", SUPPORTED)
def test_refused_recipes_have_no_commands_and_each_reason_is_one_sentence(version: str) -> None:
    toolchain, counted = load_toolchain(version), 0
    for variant in everything():
        for error in refusals(variant, toolchain):
            reported = refused(
                ToolchainError, refusals(variant, toolchain)[0].code, commands, variant, toolchain
            )
            assert version in reported.message
            assert error.hint
            counted += 1
    assert counted


def asked_for(entry: Unsupported | Note, variants: Sequence[ResolvedRecipe], version: str) -> bool:
    """Whether some variant meets the conditions of an entry."""
    for variant in variants:
        known = variables(variant, load_toolchain(version))
        algorithms = entry.algorithms if isinstance(entry, Unsupported) else (known["algorithm"],)
        if (
            known["family"] in entry.families
            and known["algorithm"] in algorithms
            and holds(entry.when, known)
        ):
            return True
    return False


@pytest.mark.parametrize("version", SUPPORTED)
def test_every_entry_of_a_file_is_reached(version: str) -> None:
    (opt,) = load("opt-2.7b", "engine.quantization=none", "engine.tensor_parallel=4")
    (t5,) = load("flan-t5-xl")
    variants = [
        *everything(),
        with_vocab(opt, 50273),
        with_vision(opt, "/models/blip2"),
        with_vision(t5, "/models/blip2"),
        *(quantized(t5, Quantization(algorithm=Algorithm(name))) for name in CALIBRATED),
    ]
    toolchain = load_toolchain(version)
    for entry in (*toolchain.unsupported, *toolchain.notes):
        assert asked_for(entry, variants, version), entry
    assert {note for variant in variants for note in notes(variant, toolchain)}


def test_the_cases_cover_all_models() -> None:
    assert {variant.facts.family for model in MODELS for variant in load(model)} == {
        *("blip2-t5", "blip2-opt", "llava", "vila", "nougat")
    }


def turned(base: float, scaling: dict[str, Any] | None, **written: Any) -> ResolvedRecipe:
    """LLaVA-7B with these rotary positions, and a config.json that has ``written`` in its decoder's section."""
    (variant,) = load("llava-fp16")
    llm = replace(variant.facts.llm, rotary_base=base, rotary_scaling=scaling)
    config = variant.configs["model"]
    text = {**config["text_config"], **written}
    return replace(
        variant, facts=replace(variant.facts, llm=llm), configs={"model": {**config, "text_config": text}}
    )


LINEAR = {"rope_type": "linear", "factor": 2.0}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0}


@pytest.mark.parametrize("version", SUPPORTED)
@pytest.mark.parametrize(
    ("variant", "refused"),
    [
        (turned(5e5, None, rope_theta=5e5), ()),
        (turned(5e5, None, rope_parameters={"rope_theta": 5e5}), SUPPORTED),
        (turned(1e4, LINEAR, rope_scaling={"type": "linear", "factor": 2.0}), ()),
        (turned(1e4, LINEAR, rope_scaling=LINEAR), SUPPORTED[:-1]),
        (turned(5e5, LLAMA3, rope_theta=5e5, rope_scaling=LLAMA3), SUPPORTED[:-1]),
    ],
    ids=["old base", "base in a new place", "old scaling", "scaling in a new spelling", "llama3"],
)
def test_rotary_settings_that_a_converter_would_misread_are_refused(
    variant: ResolvedRecipe, refused: tuple[str, ...], version: str
) -> None:
    assert refusal_codes(variant, version) == (["MM604"] if version in refused else [])


def test_positions_are_written_by_mmbuild_where_it_calibrates() -> None:
    variant = turned(5e5, None, rope_parameters={"rope_theta": 5e5})
    assert refusal_codes(on_pictures(variant, "int4_awq"), "1.2") == []
