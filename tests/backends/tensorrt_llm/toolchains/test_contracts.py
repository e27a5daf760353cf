"""The programs of every version accept all commands, for every recipe and precision."""

from __future__ import annotations

from collections import Counter

import pytest

from mmbuild.backends.tensorrt_llm.toolchains.commands import commands
from mmbuild.backends.tensorrt_llm.toolchains.load import load_toolchain
from mmbuild.models.families import MODULES
from mmbuild.schema.tensorrt_llm_versions import SUPPORTED
from support.marks import slow_except
from support.toolchain.cases import load, rendered
from support.toolchain.strict_flags import RejectedError, contract, parse, program

SCRIPTED = ("convert", "quantize", "build_llm", "build_visual", "run")


@pytest.mark.parametrize("version", slow_except(SUPPORTED, "0.9.0", "1.2"))
def test_every_command_parses_with_the_flags_of_its_version(version: str) -> None:
    known, used = contract(version), Counter()
    for variant, steps in rendered(version):
        for step in steps:
            if step.step not in SCRIPTED:
                continue
            name, arguments, ranks = program(step.argv, step.workdir)
            assert name in known, (variant.name, step.argv)
            try:
                parse(known[name], arguments)
            except RejectedError as error:
                pytest.fail(f"{variant.name} {step.name}: {error}: {step.argv}")
            assert ranks == (variant.recipe.engine.tensor_parallel if step.step == "run" else 1)
            used[name] += 1
    unused = set(known) - set(used)
    # Quantization of a whole BLIP-2 or LLaVA fails in these versions, and so is not offered.
    assert unused <= {"examples/quantization/quantize.py"}


@pytest.mark.parametrize("version", slow_except(SUPPORTED, "0.9.0", "1.2"))
def test_every_family_is_built_and_run_in_three_ways(version: str) -> None:
    built = {variant.facts.family: [step.name for step in steps] for variant, steps in rendered(version)}
    assert set(built) == set(MODULES)
    for names in built.values():
        assert names[-3:] == ["run", "profile", "check_accuracy"]
        assert len(set(names)) == len(names)


@pytest.mark.parametrize("version", slow_except(SUPPORTED, "0.9.0", "1.2"))
def test_weight_only_decoders_are_built_on_several_ranks(version: str) -> None:
    seen = {
        (variant.facts.family, variant.recipe.engine.quantization.algorithm.value, ranks)
        for variant, _ in rendered(version)
        if (ranks := variant.recipe.engine.tensor_parallel)
    }
    for family in ("blip2-opt", "llava", "vila"):
        for algorithm in ("none", "int8", "int4"):
            assert {(family, algorithm, ranks) for ranks in (1, 2, 4)} <= seen
    assert {("blip2-t5", "none", 2), ("nougat", "none", 2)} <= seen


# Flag of the numbers in each command; the solver's name for its value.
NUMBERS = {
    "--max_batch_size": "max_batch_size",
    "--max_beam_width": "max_beam_width",
    "--max_output_len": "max_output_len",
    "--max_prompt_embedding_table_size": "max_multimodal_len",
    "--max_seq_len": "max_seq_len",
}


@pytest.mark.parametrize("version", slow_except(SUPPORTED, "0.9.0", "1.2"))
def test_lengths_are_the_solvers(version: str) -> None:
    known, checked = contract(version), Counter()
    for variant, steps in rendered(version):
        engine = variant.recipe.engine
        derived = {item.name: item.value for item in variant.derivations}
        numbers = {
            "max_batch_size": engine.max_batch_size,
            "max_beam_width": engine.max_beam_width,
            "max_output_len": engine.max_output_len,
            "max_multimodal_len": derived["max_multimodal_len"],
            "max_seq_len": derived["max_seq_len"],
        }
        for step in steps:
            if step.step not in ("convert", "build_llm", "build_visual"):
                continue
            name, arguments, _ = program(step.argv, step.workdir)
            given = parse(known[name], arguments)
            if step.step == "build_visual":
                assert given["--max_batch_size"] == derived["visual.max_batch_size"]
                continue
            for flag, solved in NUMBERS.items():
                if flag in given:
                    assert given[flag] == numbers[solved], (variant.name, step.argv)
                    checked[flag] += 1
            _check_input(
                variant.facts.family, step.name, given, engine.max_input_len, numbers["max_multimodal_len"]
            )
    assert checked["--max_prompt_embedding_table_size"] > 50
    assert checked["--max_output_len"] + checked["--max_seq_len"] > 50


def _check_input(family: str, name: str, given: dict[str, object], longest: int, features: int) -> None:
    """Where a family's longest input goes: prompt, encoder, or cross-attention."""
    if name in ("build_decoder",):
        assert given["--max_input_len"] == 1
        assert given["--max_encoder_input_len"] == (features if family == "nougat" else longest)
        assert "--max_prompt_embedding_table_size" not in given
    elif "--max_encoder_input_len" in given:
        assert given["--max_encoder_input_len"] == longest
    elif "--max_input_len" in given:
        assert given["--max_input_len"] == longest


@pytest.mark.parametrize("version", ["0.12.0", "1.2"])
def test_a_full_batch_of_longest_prompts_fits_the_token_budget(version: str) -> None:
    budgets = set()
    for variant, steps in rendered(version):
        for step in steps:
            if step.name not in ("build_llm", "build_encoder"):
                continue
            engine = variant.recipe.engine
            needed = engine.max_batch_size * engine.max_input_len
            given = parse(contract(version)["trtllm-build"], program(step.argv, step.workdir)[1])
            assert given.get("--max_num_tokens", 8192) >= needed
            budgets.add("--max_num_tokens" in given)
    assert budgets == {True, False}


def test_fused_mlp_is_not_requested_over_several_gpus_unless_the_recipe_says_so() -> None:
    (variant,) = load("llava-7b-tp2")
    for version in SUPPORTED:
        (build,) = [step for step in commands(variant, load_toolchain(version)) if step.name == "build_llm"]
        assert not [word for word in build.argv if "fused_mlp" in word]


@pytest.mark.parametrize("version", slow_except(SUPPORTED, "0.9.0", "1.2"))
def test_fused_mlp_is_never_requested_for_quantized_weights(version: str) -> None:
    requested = set()
    for variant, steps in rendered(version):
        for step in steps:
            name, arguments, _ = program(step.argv, step.workdir)
            if name != "trtllm-build":
                continue
            fused = parse(contract(version)[name], arguments).get("--use_fused_mlp")
            requested.add(fused)
            plain = variant.recipe.engine.quantization.algorithm == "none"
            assert plain or fused in (None, "disable")
            # On by default in the last line, where quantized gated MLPs must say that it is off.
            if version == "1.2" and variant.facts.family in ("llava", "vila") and not plain:
                assert fused == "disable"
    assert len(requested) > 1


@pytest.mark.parametrize("version", slow_except(SUPPORTED, "0.9.0", "1.2"))
def test_attention_plugins_follow_the_dtype(version: str) -> None:
    for variant, steps in rendered(version):
        dtype = variant.recipe.engine.dtype.value
        for step in steps:
            name, arguments, _ = program(step.argv, step.workdir)
            if name != "trtllm-build":
                continue
            given = parse(contract(version)[name], arguments)
            assert given["--gemm_plugin"] == dtype
            if version in ("0.12.0", "1.2") and "--gpt_attention_plugin" not in given:
                continue  # the default is `auto`
            assert given.get("--gpt_attention_plugin", "float16") == dtype


@pytest.mark.parametrize("version", slow_except(SUPPORTED, "0.9.0", "1.2"))
def test_the_number_of_ranks_is_passed_unless_it_is_derived(version: str) -> None:
    for variant, steps in rendered(version):
        ranks = variant.recipe.engine.tensor_parallel
        for step in steps:
            if step.step not in ("convert", "quantize", "build_llm"):
                continue
            name, arguments, _ = program(step.argv, step.workdir)
            given = parse(contract(version)[name], arguments)
            if name == "trtllm-build":
                assert "--tp_size" not in given  # it follows the checkpoint, and would be ignored
            elif "--inference_tensor_para_size" in given:
                assert given["--inference_tensor_para_size"] == ranks
            else:
                assert given.get("--tp_size", 1) == ranks
            if name == "examples/enc_dec/build.py":
                assert given.get("--world_size", 1) == ranks
            assert given.get("--pp_size", 1) == 1


def test_the_last_line_finds_both_engines_below_one_directory() -> None:
    for _, steps in rendered("1.2"):
        run = next(step for step in steps if step.name == "run").argv
        directory = run[run.index("--engine_dir") + 1]
        built = {step.step: step.products for step in steps if step.step.startswith("build")}
        assert all(product.startswith(f"{directory}/llm/") for product in built["build_llm"])
        assert f"{directory}/vision/model.engine" in built["build_visual"]
