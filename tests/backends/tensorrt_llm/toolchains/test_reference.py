"""Every command of TensorRT-LLM's own page comes out of a recipe, argument for argument: for the oldest toolchain and
for the last.

The page's commands and each deviation from them are data: tests/contracts/reference-<version>.yaml. The order of
flags has no meaning and is not compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from mmbuild.backends.tensorrt_llm.toolchains.commands import Command, commands
from mmbuild.backends.tensorrt_llm.toolchains.load import load_toolchain
from mmbuild.schema.tensorrt_llm_versions import ToolchainError
from support.toolchain.cases import load
from support.toolchain.strict_flags import RejectedError, contract, parse, program

CONTRACTS = Path(__file__).parents[3] / "contracts"
OLDEST = "0.9.0.dev2024040900"
Case = tuple[str, Mapping[str, Any], str]
BLOCKS: dict[str, list[dict[str, Any]]] = {
    version: yaml.safe_load((CONTRACTS / f"reference-{version}.yaml").read_text("utf-8"))
    for version in (OLDEST, "1.2")
}
CASES: list[Case] = [
    (version, block, model)
    for version, blocks in BLOCKS.items()
    for block in blocks
    for model in block["models"]
]
BUILT = [case for case in CASES if "refused" not in case[1]]


def named(case: Case) -> str:
    return f"{case[0]} {case[1]['id']}: {case[2]}"


def ours(case: Case) -> dict[str, Command]:
    """mmbuild's commands for a model of a block, by name."""
    version, block, model = case
    at = block["models"][model]
    variants = {variant.name: variant for variant in load(at["recipe"], *block.get("set", ()))}
    return {step.name: step for step in commands(variants[at["variant"]], load_toolchain(version))}


def groups(argv: Sequence[str]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The program, and its flags with their values in any order."""
    found: list[list[str]] = [[]]
    for argument in argv:
        if argument.startswith("-"):
            found.append([])
        found[-1].append(argument)
    return tuple(found[0]), sorted(map(tuple, found[1:]))


@pytest.mark.parametrize("case", BUILT, ids=named)
def test_the_commands_of_the_page_and_their_flags_for_profiling_and_accuracy(case: Case) -> None:
    version, block, model = case
    made = ours(case)
    for name, argv in block["commands"].items():
        head, flags = groups([argument.replace("MODEL", model) for argument in argv])
        deviation = block.get("deviations", {}).get(name, {})
        for group in deviation.get("without", ()):
            flags.remove(tuple(group))
        flags = sorted(flags + [tuple(group) for group in deviation.get("with", ())])
        assert groups(spelt(made[name].argv, model)) == (head, flags), name
        assert made[name].workdir == load_toolchain(version).workdir
    head, flags = groups(made["run"].argv)
    for name, flag in (("profile", "--run_profiling"), ("check_accuracy", "--check_accuracy")):
        assert groups(made[name].argv) == (head, sorted([*flags, (flag,)]))


def spelt(argv: Sequence[str], model: str) -> list[str]:
    """``argv`` with a hub repository spelt as the page spells it, whatever its capitals."""
    return [
        text if not text.lower().endswith(f"/{model}".lower()) else text[: -len(model)] + model
        for text in argv
    ]


@pytest.mark.parametrize("case", [case for case in BUILT if "download" in case[1]["commands"]], ids=named)
def test_nothing_else_is_done(case: Case) -> None:
    block, made = case[1], set(ours(case))
    assert made - set(block["commands"]) - set(block.get("extra", ())) <= {"run", "profile", "check_accuracy"}


@pytest.mark.parametrize("case", [case for case in CASES if "refused" in case[1]], ids=named)
def test_what_the_page_promises_and_cannot_do_is_refused(case: Case) -> None:
    with pytest.raises(ToolchainError) as caught:
        ours(case)
    assert caught.value.code == case[1]["refused"]
    assert "1.2" in str(caught.value.hint)


def test_each_deviation_says_why() -> None:
    blocks = [block for found in BLOCKS.values() for block in found]
    assert all(deviation["why"] for block in blocks for deviation in block.get("deviations", {}).values())


def test_the_flag_of_the_page_that_is_replaced_is_indeed_rejected() -> None:
    nougat = next(block for block in BLOCKS[OLDEST] if block["id"] == "Nougat")
    name, arguments, _ = program(nougat["commands"]["build_llm"], "examples/multimodal")
    with pytest.raises(RejectedError, match="--bert_attention_plugin"):
        parse(contract(OLDEST)[name], arguments)


@pytest.mark.parametrize(
    ("version", "models"),
    [
        (
            OLDEST,
            "flan-t5-xl flan-t5-xxl opt-2.7b opt-6.7b llava-1.5-7b-hf llava-1.5-13b-hf vila-7B vila-2.7B vila-13B",
        ),
        (
            "1.2",
            "blip2-flan-t5-xl blip2-flan-t5-xxl blip2-opt-2.7b blip2-opt-6.7b llava-1.5-7b-hf llava-1.5-13b-hf"
            " vila1.5-3b",
        ),
    ],
)
def test_every_model_of_the_page_is_among_them(version: str, models: str) -> None:
    assert {model for of, _, model in CASES if of == version} == {
        *models.split(),
        "nougat-base",
        "nougat-small",
    }
