"""Every command of TensorRT-LLM's own page comes out of a recipe, argument for argument.

The page's commands and each deviation from them are data: tests/contracts/reference-0.9.0.dev2024040900.yaml. The
order of flags has no meaning and is not compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from strict_flags import RejectedError, contract, parse, program
from toolchain_cases import load

from mmbuild.toolchains.commands import Command, commands
from mmbuild.toolchains.load import load_toolchain
from mmbuild.toolchains.versions import ToolchainError

VERSION = "0.9.0.dev2024040900"
FILE = Path(__file__).parents[1] / "contracts" / f"reference-{VERSION}.yaml"
BLOCKS: list[dict[str, Any]] = yaml.safe_load(FILE.read_text("utf-8"))
CASES = [(block, model) for block in BLOCKS for model in block["models"]]
BUILT = [case for case in CASES if "refused" not in case[0]]


def named(case: tuple[Mapping[str, Any], str]) -> str:
    return f"{case[0]['id']}: {case[1]}"


def ours(block: Mapping[str, Any], model: str) -> dict[str, Command]:
    """mmbuild's commands for a model of a block, by name."""
    at = block["models"][model]
    variants = {variant.name: variant for variant in load(at["recipe"], *block.get("set", ()))}
    return {step.name: step for step in commands(variants[at["variant"]], load_toolchain(VERSION))}


def groups(argv: Sequence[str]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The program, and its flags with their values in any order."""
    found: list[list[str]] = [[]]
    for argument in argv:
        if argument.startswith("-"):
            found.append([])
        found[-1].append(argument)
    return tuple(found[0]), sorted(map(tuple, found[1:]))


@pytest.mark.parametrize("case", BUILT, ids=named)
def test_the_commands_of_the_page(case: tuple[Mapping[str, Any], str]) -> None:
    block, model = case
    made = ours(block, model)
    for name, argv in block["commands"].items():
        head, flags = groups([argument.replace("MODEL", model) for argument in argv])
        deviation = block.get("deviations", {}).get(name, {})
        for group in deviation.get("without", ()):
            flags.remove(tuple(group))
        flags = sorted(flags + [tuple(group) for group in deviation.get("with", ())])
        assert groups(made[name].argv) == (head, flags), name
        assert made[name].workdir == "examples/multimodal"


@pytest.mark.parametrize("case", [c for c in BUILT if "download" in c[0]["commands"]], ids=named)
def test_nothing_else_is_done(case: tuple[Mapping[str, Any], str]) -> None:
    block, model = case
    asked = {"profile", "check_accuracy"}
    assert set(ours(block, model)) - asked == set(block["commands"]) | (
        set(block.get("extra", ())) & set(ours(block, model))
    )


@pytest.mark.parametrize("case", BUILT, ids=named)
def test_profiling_and_accuracy_are_flags_of_the_same_command(case: tuple[Mapping[str, Any], str]) -> None:
    made = ours(*case)
    for name, flag in (("profile", "--run_profiling"), ("check_accuracy", "--check_accuracy")):
        head, flags = groups(made["run"].argv)
        assert groups(made[name].argv) == (head, sorted([*flags, (flag,)]))


@pytest.mark.parametrize("case", [c for c in CASES if "refused" in c[0]], ids=named)
def test_what_the_page_promises_and_cannot_do_is_refused(case: tuple[Mapping[str, Any], str]) -> None:
    block, model = case
    with pytest.raises(ToolchainError) as caught:
        ours(block, model)
    assert caught.value.code == block["refused"]
    assert "1.2" in str(caught.value.hint)


def test_each_deviation_says_why_and_the_flag_of_the_page_is_indeed_rejected() -> None:
    whys = [deviation["why"] for block in BLOCKS for deviation in block.get("deviations", {}).values()]
    assert all(whys)
    nougat = next(block for block in BLOCKS if block["id"] == "Nougat")
    name, arguments, _ = program(nougat["commands"]["build_llm"], "examples/multimodal")
    with pytest.raises(RejectedError, match="--bert_attention_plugin"):
        parse(contract(VERSION)[name], arguments)


def test_every_model_of_the_page_is_among_them() -> None:
    named_by_the_page = {
        *("flan-t5-xl", "flan-t5-xxl", "opt-2.7b", "opt-6.7b", "llava-1.5-7b-hf", "llava-1.5-13b-hf"),
        *("vila-7B", "vila-2.7B", "vila-13B", "nougat-base", "nougat-small"),
    }
    assert {model for _, model in CASES} == named_by_the_page
