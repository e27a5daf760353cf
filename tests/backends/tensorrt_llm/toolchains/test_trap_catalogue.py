"""The trap catalogue: all entries are complete, with documented codes and existing tests."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from mmbuild.base.codes import codes
from mmbuild.schema.tensorrt_llm_versions import SUPPORTED
from support.toolchain.trap_checks import CHECKS

ROOT = Path(__file__).parents[4]
TRAPS: list[dict[str, Any]] = yaml.safe_load((ROOT / "tests/contracts/traps.yaml").read_text("utf-8"))
KINDS = ("recipe", "product", "construction", "environment")
_TOOLCHAINS = "tests/backends/tensorrt_llm/toolchains/"
_RUNNER = "tests/backends/tensorrt_llm/runner/"
BY_KIND = {
    "recipe": (
        "tests/schema/",
        "tests/pipeline/",
        "tests/models/validation/",
        "tests/core/execution/",
        _TOOLCHAINS,
    ),
    "product": (
        "tests/backends/tensorrt_llm/output_checks/",
        _RUNNER,
        "tests/steps/",
        "tests/backends/torch/",
        "tests/models/",
        f"{_TOOLCHAINS}test_patches",
    ),
    "construction": (_TOOLCHAINS, "tests/pipeline/", "tests/steps/", _RUNNER),
    "environment": ("tests/inspect/doctor/", "tests/backends/tensorrt_llm/checks/"),
}


def test_each_number_is_there_once_and_in_order() -> None:
    numbers = [trap["id"] for trap in TRAPS if isinstance(trap["id"], int)]
    assert numbers == list(range(1, 35))
    assert len({str(trap["id"]) for trap in TRAPS}) == len(TRAPS)


def test_every_entry_is_whole() -> None:
    for trap in TRAPS:
        assert set(trap) <= {"id", "trap", "toolchains", "kind", "codes", "held", "evidence"}, trap
        assert trap["trap"].endswith("."), trap
        assert trap["evidence"], trap
        assert set(trap.get("toolchains", ())) <= set(SUPPORTED), trap
        assert trap["kind"], trap
        assert set(trap["kind"]) <= set(KINDS), trap
        assert set(trap.get("codes", ())) <= set(codes()), trap
        # What is found has a code; what cannot happen needs none, and doctor's checks have names instead.
        assert trap.get("codes") or not {"recipe", "product"} & set(trap["kind"]), trap


@cache
def functions(path: str) -> dict[str, ast.FunctionDef]:
    """Tests at the top of a file, as pytest collects them."""
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}


def skipped(function: ast.FunctionDef) -> bool:
    return any("mark.skip" in ast.unparse(item) for item in function.decorator_list)


def test_what_holds_a_trap_exists_and_is_collected() -> None:
    for held in (held for trap in TRAPS for held in trap["held"]):
        path, _, rest = held.partition("::")
        name, _, check = rest.partition("[")
        assert re.fullmatch(r"tests/(?:\w+/)+test_\w+\.py", path), held
        assert name.startswith("test_"), held
        assert name in functions(path), held
        assert not skipped(functions(path)[name]), held
        if name == "test_it_cannot_happen_in_any_recipe":
            assert [known for known in CHECKS if known.startswith(check)], held


def test_each_kind_is_tested_in_its_place() -> None:
    for trap in TRAPS:
        for kind in trap["kind"]:
            assert [held for held in trap["held"] if held.startswith(BY_KIND[kind])], (trap["id"], kind)


def test_every_check_of_command_lines_is_for_a_trap_of_its_number() -> None:
    reported = {held.partition("[")[2].rstrip("-") for trap in TRAPS for held in trap["held"] if "[" in held}
    assert reported == {name.partition("-")[0] for name in CHECKS}
    for trap in TRAPS:
        for held in trap["held"]:
            number = held.partition("[")[2].rstrip("-")
            assert not number or number == str(trap["id"]).zfill(2), held
