"""Commands that exit with 0 but write a wrong result: each fault gives exactly its finding."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmbuild.backends.tensorrt_llm.output_checks.log_patterns import scan
from mmbuild.backends.tensorrt_llm.output_checks.model import rules
from mmbuild.backends.tensorrt_llm.toolchains.commands import Command
from mmbuild.schema.resolved import ResolvedRecipe
from mmbuild.schema.tensorrt_llm_versions import SUPPORTED
from support.marks import slow_except
from support.toolchain.cases import rendered
from support.toolchain.products import MADE, executed, fetchable

Case = tuple[ResolvedRecipe, tuple[Command, ...]]

# The code that the check of a command reports for each fault.
CHECKPOINT = {
    "missing_rank": "MM650",
    "config_only": "MM650",
    "stale_rank": "MM651",
    "broken_config": "MM652",
    "dtype": "MM655",
    "ranks": "MM656",
    "unquantized": "MM657",
    "unpacked": "MM657",
    "model": "MM658",
    "truncated": "MM659",
    "pointer": "MM659",
    "tensors": "MM660",
}
ENGINE = {
    "missing_rank": "MM650",
    "stale_rank": "MM651",
    "broken_config": "MM652",
    "table": "MM653",
    "batch": "MM654",
    "length": "MM654",
    "dtype": "MM655",
    "ranks": "MM656",
    "model": "MM658",
    "version": "MM662",
}
VISUAL = {"missing_rank": "MM650", "broken_config": "MM652", "dtype": "MM655"}
LEGACY = ("0.9.0.dev2024040900", "0.9.0")


def cases(version: str) -> dict[tuple[str, str, int], Case]:
    """One case per family, quantization and number of ranks (1 or 2)."""
    found: dict[tuple[str, str, int], Case] = {}
    for variant, steps in rendered(version):
        engine = variant.recipe.engine
        if fetchable(variant) and engine.tensor_parallel <= 2:
            key = (variant.facts.family, engine.quantization.algorithm.value, engine.tensor_parallel)
            found.setdefault(key, (variant, steps))
    return found


def codes_of(case: Case, version: str, root: Path, name: str, fault: str) -> list[str]:
    """Codes of the findings of the command ``name``, which has the fault; nothing runs after it.

    What correct commands before it write has no findings: ``test_check.py``.
    """
    _, findings = next(executed(*case, version, root, {name: fault}, checked=name))
    return [item.code for item in findings]


def names(case: Case, *steps: str) -> list[str]:
    return [step.name for step in case[1] if step.step in steps]


@pytest.mark.parametrize("version", slow_except(SUPPORTED, "1.2"))
@pytest.mark.parametrize("fault", CHECKPOINT)
def test_a_fault_of_a_checkpoint_is_found(version: str, fault: str, tmp_path: Path) -> None:
    checked = 0
    for (family, algorithm, ranks), case in cases(version).items():
        parts = family in ("blip2-t5", "nougat")
        if parts and version in LEGACY:
            continue  # raw files; below
        if fault in ("unquantized", "unpacked") and algorithm == "none":
            continue
        if fault == "unpacked" and algorithm in ("fp8", "smoothquant"):
            continue  # their tensor names are unknown
        if fault == "tensors" and parts and version == "1.2":
            continue  # as above
        (name,) = names(case, "convert", "quantize")
        codes = codes_of(case, version, tmp_path / f"{family}-{algorithm}-{ranks}", name, fault)
        # Some faults occur in every part and every rank.
        assert codes, (family, algorithm, ranks)
        assert set(codes) == {CHECKPOINT[fault]}, (family, algorithm, ranks)
        assert len(codes) <= ranks * (2 if family == "blip2-t5" else 1)
        checked += 1
    assert checked >= 4


@pytest.mark.parametrize("version", LEGACY)
@pytest.mark.parametrize("family", ["blip2-t5", "nougat"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_raw_files_that_a_failed_worker_left_out_are_found(
    version: str, family: str, ranks: int, tmp_path: Path
) -> None:
    case = cases(version)[family, "none", ranks]
    assert codes_of(case, version, tmp_path, "convert", "tensors") == ["MM660"]


@pytest.mark.parametrize(
    ("version", "fault"),
    slow_except(
        [(version, fault) for version in SUPPORTED for fault in ENGINE],
        *(("1.2", fault) for fault in ENGINE),
        # Both engines of an encoder-decoder are built by one command.
        *(("0.9.0", fault) for fault in ("missing_rank", "batch", "model")),
    ),
)
def test_a_fault_of_an_engine_is_found(version: str, fault: str, tmp_path: Path) -> None:
    checked = 0
    for (family, algorithm, ranks), case in cases(version).items():
        for name in names(case, "build_llm"):
            legacy = version in LEGACY and family in ("blip2-t5", "nougat")
            if legacy and fault == "version":
                continue  # their config.json has none
            root = tmp_path / f"{family}-{algorithm}-{ranks}-{name}"
            codes = codes_of(case, version, root, name, fault)
            # The older command for encoder-decoders builds both engines.
            engines = 2 if legacy and family == "blip2-t5" else 1
            assert codes == [ENGINE[fault]] * engines, (family, algorithm, ranks, name)
            checked += 1
    assert checked >= 8


@pytest.mark.parametrize("version", slow_except(SUPPORTED, "0.9.0", "1.2"))
@pytest.mark.parametrize("fault", VISUAL)
def test_a_fault_of_a_visual_engine_is_found(version: str, fault: str, tmp_path: Path) -> None:
    for key, case in cases(version).items():
        if key[1:] != ("none", 1):
            continue
        codes = codes_of(case, version, tmp_path / key[0], "build_visual", fault)
        assert codes == ([] if version == "0.9.0" and fault != "missing_rank" else [VISUAL[fault]])


def test_the_visual_engine_of_1_2_records_its_batch(tmp_path: Path) -> None:
    for key, case in cases("1.2").items():
        assert codes_of(case, "1.2", tmp_path / "-".join(map(str, key)), "build_visual", "batch") == ["MM654"]


@pytest.mark.parametrize("version", ["0.9.0.dev2024040900", "0.9.0", "0.10.0"])
def test_an_engine_with_dummy_weights_is_found_after_its_build(
    version: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = cases(version)["llava", "int8", 2]
    found = dict(executed(*case, version, tmp_path, {"convert": "missing_rank"}))
    assert [item.code for item in found["convert"]] == ["MM650"]
    assert [item.code for item in found["build_llm"]] == ["MM661"]
    assert "rank1.safetensors" in found["build_llm"][0].message
    (remark,) = scan(capsys.readouterr().out.splitlines(), version)
    assert (remark.finding.code, remark.severity) == ("MM676", "silent")


def test_from_the_next_version_on_the_build_fails_there(tmp_path: Path) -> None:
    case = cases("0.12.0")["llava", "int8", 2]
    with pytest.raises(AssertionError, match="rank 1"):
        dict(executed(*case, "0.12.0", tmp_path, {"convert": "missing_rank"}))


@pytest.mark.parametrize("version", slow_except(SUPPORTED, "0.9.0", "1.2"))
@pytest.mark.parametrize("fault", ["", "onnx"])
def test_a_visual_model_that_was_not_read_is_found_in_the_log_alone(
    version: str, fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = cases(version)["nougat", "none", 1]
    assert codes_of(case, version, tmp_path, "build_visual", fault) == []
    said = capsys.readouterr().out
    assert "Succeeded parsing" in said
    assert [item.finding.code for item in scan(said.splitlines(), version)] == (["MM675"] if fault else [])


@pytest.mark.parametrize("version", slow_except(SUPPORTED, "0.9.0", "1.2"))
def test_every_rule_is_for_an_existing_command(version: str) -> None:
    made = {
        (variant.facts.family, step.name)
        for variant, steps in rendered(version)
        for step in steps
        if step.step in MADE
    }
    ruled = {
        (family, name) for rule in rules(version).rules for family in rule.families for name in rule.commands
    }
    # The visual builder of 0.9.0 writes only its engine.
    unruled = {item for item in made - ruled if item[1] != "build_visual" or version != "0.9.0"}
    assert unruled == set()
