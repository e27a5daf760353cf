"""Scripts pass shellcheck and, with stand-in programs, run exactly the commands in order."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmbuild.backends.tensorrt_llm.toolchains.capabilities import refusals
from mmbuild.backends.tensorrt_llm.toolchains.commands import commands
from mmbuild.backends.tensorrt_llm.toolchains.load import load_toolchain
from mmbuild.backends.tensorrt_llm.toolchains.script import script
from mmbuild.base.shell import line
from mmbuild.pipeline.load import load_recipes
from mmbuild.schema.model import Calibration, Verify
from mmbuild.schema.resolved import ResolvedRecipe
from mmbuild.schema.tensorrt_llm_versions import SUPPORTED, ToolchainError
from support.errors import refused
from support.marks import slow_except
from support.toolchain.cases import MODELS, load, recipe_files

SHELLCHECK = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
PROGRAMS = ("git", "python", "trtllm-build", "mpirun", "sed", "grep", "wget", "ln")


def scripts(version: str, directory: Path) -> list[Path]:
    """A script for every recipe of the repository whose variants ``version`` builds."""
    toolchain, made = load_toolchain(version), []
    for path in recipe_files():
        variants = load_recipes([path], offline=True).variants
        variants = tuple(v for v in variants if not refusals(v, toolchain) and "dummy" not in v.name)
        if variants:
            made.append(directory / f"{path.parent.name}-{path.stem}.sh")
            made[-1].write_text(script(variants, toolchain), "utf-8")
    return made


@pytest.mark.parametrize("version", slow_except(SUPPORTED, "0.9.0"))
def test_every_script_passes_shellcheck(version: str, tmp_path: Path) -> None:
    files = [str(path) for path in scripts(version, tmp_path)]
    assert len(files) > 20
    for path in files:
        subprocess.run(["bash", "-n", path], check=True)
    if SHELLCHECK is None:
        pytest.skip("shellcheck is not installed: bash read the scripts, and nothing looked deeper")
    reported = subprocess.run(
        [SHELLCHECK, "--enable=quote-safe-variables", *files], capture_output=True, text=True, check=False
    )
    assert reported.stdout == ""
    assert reported.returncode == 0


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with programs that write down how they are called; ``git clone`` makes its directory."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in PROGRAMS:
        body = (
            "#!/usr/bin/env bash\n"
            f'printf "%s\\0" "$#" {name} "$@" "${{PWD}}" >>"${{CALLS}}"\n'
            f'if [[ "{name} ${{1:-}}" == "git clone" ]]; then mkdir -p "$3"; fi\n'
            'if [[ "${FAIL:-}" == "$1" ]]; then exit 3; fi\n'
        )
        (programs / name).write_text(body, "utf-8")
        (programs / name).chmod(0o755)
    for workdir in {load_toolchain(version).workdir for version in SUPPORTED}:
        (tmp_path / "checkout" / workdir).mkdir(parents=True, exist_ok=True)
    return tmp_path / "checkout"


def run(
    text: str, checkout: Path, *arguments: str, fail: str = ""
) -> tuple[subprocess.CompletedProcess[str], list[tuple[str, ...]]]:
    """Run a script; returns how it ended, and the calls that it made, each with its working directory last."""
    path, calls = checkout.parent / "script.sh", checkout.parent / "calls"
    path.write_text(text, "utf-8")
    calls.write_text("")
    environment = {
        "PATH": f"{checkout.parent / 'bin'}:{os.environ['PATH']}",
        "TRTLLM_ROOT": str(checkout),
        "CALLS": str(calls),
        "FAIL": fail,
    }
    done = subprocess.run(
        ["bash", str(path), *arguments], env=environment, capture_output=True, text=True, check=False
    )
    found, words = [], calls.read_bytes().decode().split("\0")[:-1]
    while words:
        size = int(words[0]) + 3  # arguments, and their number, the program and the directory
        found.append(tuple(words[1:size]))
        del words[:size]
    return done, found


def expected(
    variants: Sequence[ResolvedRecipe], version: str, mode: str, checkout: Path
) -> list[tuple[str, ...]]:
    toolchain, calls = load_toolchain(version), []
    for variant in variants:
        for step in commands(variant, toolchain):
            call = (*step.argv, str(checkout / toolchain.workdir))
            if step.name == mode or (step.step != "run" and call not in calls):
                calls.append(call)
    return calls


@pytest.mark.parametrize("version", slow_except(SUPPORTED, "0.9.0", "1.2"))
@pytest.mark.parametrize("model", MODELS)
def test_a_script_calls_exactly_the_commands(model: str, version: str, checkout: Path) -> None:
    variants = load(model)
    if any(refusals(variant, load_toolchain(version)) for variant in variants):
        variants = load(model, "engine.max_input_len=512")
    toolchain = load_toolchain(version)
    if any(refusals(variant, toolchain) for variant in variants):
        refused(ToolchainError, "MM604", script, variants, toolchain)
        return
    mode = {"llava-fp16": "profile", "opt-2.7b": "check_accuracy"}.get(model, "run")
    done, calls = run(script(variants, toolchain), checkout, *([] if mode == "run" else [mode]))
    assert done.returncode == 0, done.stderr
    assert [call for call in calls if call[:3] != ("git", "lfs", "version")] == expected(
        variants, version, mode, checkout
    )


def test_unusual_questions_and_paths_arrive_unchanged(checkout: Path) -> None:
    question = 'What\'s "this"? $HOME `id` $(id) \\ \\n !x * ~ # ; & | <a>\n\tand  more '
    (variant,) = load("llava-int4")
    verify = Verify(prompts=(question,), images=("/p/a b'c\".png",))
    variant = replace(variant, recipe=variant.recipe.model_copy(update={"verify": verify}))
    text = script([variant], load_toolchain("0.12.0"))
    done, calls = run(text, checkout)
    assert done.returncode == 0, done.stderr
    assert question in calls[-1]
    assert "/p/a b'c\".png" in calls[-1]
    if SHELLCHECK is not None:
        subprocess.run([SHELLCHECK, str(checkout.parent / "script.sh")], check=True)


def test_a_second_run_fetches_nothing_again(checkout: Path) -> None:
    text = script(load("vila-7b-fp16"), load_toolchain("0.10.0"))
    _, first = run(text, checkout)
    _, second = run(text, checkout)
    again = {call[:2] for call in second}
    assert ("git", "clone") in {call[:2] for call in first}
    assert ("git", "clone") not in again
    assert ("sed", "-i") not in again
    assert ("grep", "--quiet") in again


def test_a_failing_command_stops_the_script_and_is_named(checkout: Path) -> None:
    text = script(load("llava-int4"), load_toolchain("0.10.0"))
    done, calls = run(text, checkout, fail="../llama/convert_checkpoint.py")
    assert done.returncode == 3
    assert calls[-1][1] == "../llama/convert_checkpoint.py"
    assert "failed: python ../llama/convert_checkpoint.py" in done.stderr


def test_a_wrong_word_or_no_checkout_does_nothing(checkout: Path) -> None:
    text = script(load("llava-int4"), load_toolchain("0.10.0"))
    done, calls = run(text, checkout, "everything")
    assert (done.returncode, calls) == (2, [])
    assert "usage:" in done.stderr
    path = checkout.parent / "script.sh"
    bare = subprocess.run(
        ["bash", str(path)], env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=False
    )
    assert bare.returncode != 0
    assert "set TRTLLM_ROOT to the checkout" in bare.stderr


def test_commands_shared_by_variants_appear_once() -> None:
    text = script(load("opt-2.7b"), load_toolchain("0.10.0"))
    assert text.count("git clone https://huggingface.co/facebook/opt-2.7b") == 1
    assert text.count("build_visual_engine.py") == 1
    assert text.count("trtllm-build") == 3


def test_numbers_are_explained_in_comments() -> None:
    (variant,) = load("llava-int4")
    text = script([variant], load_toolchain("1.2"))
    for derivation in variant.derivations:
        assert f"# {derivation.name} = {derivation.value}: {derivation.arithmetic}" in text
    assert "never been executed" in text


def test_random_weights_are_refused() -> None:
    refused(ToolchainError, "MM607", script, load("llava-dummy"), load_toolchain("1.2"))


def test_variants_that_would_overwrite_each_other_are_refused() -> None:
    variants = [load("llava-int4", f"engine.max_output_len={n}", f"name=n{n}")[0] for n in (50, 100)]
    error = refused(ToolchainError, "MM608", script, variants, load_toolchain("1.2"))
    assert "n50 and n100" in error.message


def test_models_of_one_name_from_two_places_are_refused() -> None:
    (first,) = load("llava-int4")
    for change in ({"source": "/elsewhere/llava-1.5-7b-hf"}, {"revision": "0" * 40}):
        model = first.recipe.model.model_copy(update=change)
        second = replace(first, name="other", recipe=first.recipe.model_copy(update={"model": model}))
        refused(ToolchainError, "MM608", script, [first, second], load_toolchain("1.2"))


def test_requirements_of_every_family_are_named() -> None:
    text = script([*load("llava-int4"), *load("vila1.5-3b-fp16")], load_toolchain("1.2"))
    assert "# For vila also: git+https://github.com/bfshi/scaling_on_scales.git" in text


@given(
    st.lists(
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=1, max_size=20
    )
)
def test_bash_reads_back_every_argument(arguments: list[str]) -> None:
    program = f"printf '%s\\0' {line(arguments)}\n"
    done = subprocess.run(["bash"], input=program.encode(), capture_output=True, check=True)
    assert done.stdout.decode().split("\0")[:-1] == arguments


def test_calibration_on_data_is_in_no_script() -> None:
    """A script with the version's own quantizer in its place would calibrate on text without a word."""
    (variant,) = load("llava-fp16", "engine.quantization=int4_awq", "engine.tensorrt_llm.fused_mlp=auto")
    assert "quantize.py" in script([variant], load_toolchain("1.2"))
    engine = variant.recipe.engine
    data = engine.quantization.model_copy(update={"calibration": Calibration(data="data.jsonl")})
    recipe = variant.recipe.model_copy(update={"engine": engine.model_copy(update={"quantization": data})})
    error = refused(ToolchainError, "MM174", script, [replace(variant, recipe=recipe)], load_toolchain("1.2"))
    assert "mmbuild apply" in str(error.hint)
