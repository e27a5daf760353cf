"""Commands: order, directories, products, and errors that cannot occur by construction."""

from __future__ import annotations

import posixpath
from dataclasses import replace

import pytest

from mmbuild.backends.tensorrt_llm.toolchains.commands import Command, commands
from mmbuild.backends.tensorrt_llm.toolchains.load import load_toolchain
from mmbuild.schema.model import Verify
from mmbuild.schema.resolved import ResolvedRecipe
from mmbuild.schema.tensorrt_llm_versions import SUPPORTED
from support.toolchain.cases import load, rendered

ORDER = ["download", "prepare", "convert", "quantize", "build_llm", "build_visual", "run"]


def made(variant: ResolvedRecipe, version: str) -> dict[str, Command]:
    return {step.name: step for step in commands(variant, load_toolchain(version))}


@pytest.mark.parametrize("version", SUPPORTED)
def test_commands_come_after_the_commands_they_depend_on(version: str) -> None:
    for _, steps in rendered(version):
        places = [ORDER.index(step.step) for step in steps]
        assert places == sorted(places)


@pytest.mark.parametrize("version", SUPPORTED)
def test_rank_files_are_listed_once_per_rank(version: str) -> None:
    for variant, steps in rendered(version):
        ranks = variant.recipe.engine.tensor_parallel
        for step in steps:
            if step.step != "build_llm":
                continue
            for part in {posixpath.dirname(product) for product in step.products}:
                engines = [
                    path for path in step.products if path.startswith(part + "/") and path.endswith(".engine")
                ]
                assert len(engines) == ranks
                assert f"{part}/config.json" in step.products
            assert len(set(step.products)) == len(step.products)


@pytest.mark.parametrize("version", SUPPORTED)
def test_run_reads_what_the_builds_wrote(version: str) -> None:
    for variant, steps in rendered(version):
        products = [product for step in steps for product in step.products]
        run = next(step for step in steps if step.name == "run").argv
        for flag in ("--visual_engine_dir", "--llm_engine_dir", "--engine_dir"):
            if flag in run:
                directory = run[run.index(flag) + 1]
                assert any(product.startswith(directory + "/") for product in products), (variant.name, flag)


@pytest.mark.parametrize("version", SUPPORTED)
def test_the_build_reads_what_the_conversion_wrote(version: str) -> None:
    for _, steps in rendered(version):
        written = [
            product for step in steps for product in step.products if step.step in ("convert", "quantize")
        ]
        for step in steps:
            for flag in ("--checkpoint_dir", "--weight_dir"):
                if flag in step.argv:
                    directory = step.argv[step.argv.index(flag) + 1]
                    assert f"{directory}/config" in " ".join(written)


@pytest.mark.parametrize("version", SUPPORTED)
def test_rank_counts_are_part_of_directories_so_that_none_is_left_over(version: str) -> None:
    seen: dict[str, int] = {}
    for variant, steps in rendered(version):
        for step in steps:
            for product in step.products:
                if step.step in ("convert", "quantize", "build_llm"):
                    directory = f"{step.step} {posixpath.dirname(product)}"
                    ranks = variant.recipe.engine.tensor_parallel
                    assert seen.setdefault(directory, ranks) == ranks, directory


def test_a_directory_source_is_linked_and_random_weights_are_fetched_nowhere() -> None:
    linked = made(load("demo/llava")[0], "1.2")["download"]
    assert linked.argv[:2] == ("ln", "-sfn")
    assert linked.argv[2].endswith("examples/models/llava-shapes")
    assert "download" not in made(load("llava-dummy")[0], "1.2")


def test_pinned_model_code_is_checked_out() -> None:
    (variant,) = load(
        "vila-7b-fp16",
        "model.code.source=git+https://github.com/somebody/VILA.git",
        "model.code.revision=0123abc",
    )
    steps = made(variant, "0.10.0")
    assert steps["clone_code"].argv[2] == "https://github.com/somebody/VILA.git"
    assert steps["pin_code"].argv[-1] == "0123abc"
    assert list(steps).index("pin_code") < list(steps).index("edit_delay_load")


def test_a_dot_in_a_name_does_not_truncate_the_visual_engines_directory() -> None:
    # 0.10.0 names the directory up to the first dot unless it is passed.
    step = made(load("opt-2.7b", "engine.quantization=none")[0], "0.10.0")["build_visual"]
    assert step.argv[step.argv.index("--output_dir") + 1] == "visual_engines/opt-2.7b"


def test_an_engine_has_the_name_that_run_looks_for() -> None:
    for version in ("0.9.0.dev2024040900", "0.9.0"):
        steps = made(load("flan-t5-xl")[0], version)
        build, run = steps["build_llm"].argv, steps["run"].argv
        name = build[build.index("--engine_name") + 1]
        assert posixpath.basename(run[run.index("--hf_model_dir") + 1]) == name


@pytest.mark.parametrize("question", ["--help", "-1 + 1 = ?", "- a list"])
def test_a_question_that_begins_like_a_flag_stays_a_value(question: str) -> None:
    (variant,) = load("llava-int4")
    variant = replace(
        variant, recipe=variant.recipe.model_copy(update={"verify": Verify(prompts=(question,))})
    )
    assert f"--input_text={question}" in made(variant, "0.10.0")["run"].argv


def test_images_are_passed_to_versions_that_accept_them() -> None:
    (variant,) = load("llava-int4")
    verify = Verify(prompts=("?",), images=("/pictures/a b.png",))
    variant = replace(variant, recipe=variant.recipe.model_copy(update={"verify": verify}))
    for version in SUPPORTED:
        taken = "/pictures/a b.png" in made(variant, version)["run"].argv
        assert taken == (version in ("0.12.0", "1.2"))
        assert "/pictures/a b.png" not in made(variant, version)["check_accuracy"].argv
