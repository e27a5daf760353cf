"""Versions that extend other versions: what is merged, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from shutil import copytree

import pytest
from pydantic import ValidationError

from mmbuild.backends.tensorrt_llm.toolchains.commands import commands
from mmbuild.backends.tensorrt_llm.toolchains.load import (
    DIRECTORY,
    SUBJECTS,
    load_toolchain,
    merge,
    version_facts,
)
from mmbuild.schema.tensorrt_llm_versions import SUPPORTED
from support.toolchain.cases import rendered

SAMPLE = {"first": 1, "second": {"inner": [1, 2], "other": True}, "third": "x"}


def added(tmp_path: Path, version: str, text: str) -> Path:
    """A directory of 0.12.0 and a new version with one file."""
    if not (tmp_path / "0.12.0").exists():
        copytree(DIRECTORY / "0.12.0", tmp_path / "0.12.0")
    (tmp_path / version).mkdir()
    (tmp_path / version / "toolchain.yaml").write_text(text)
    return tmp_path


def test_a_new_version_is_one_small_file(tmp_path: Path) -> None:
    directory = added(
        tmp_path,
        "0.13.0",
        """
        extends: 0.12.0
        commands:
          build_encoder:
            argv: {--context_fmha: enable}
        """,
    )
    toolchain = load_toolchain("0.13.0", directory)
    assert toolchain.version == "0.13.0"
    # Tables of GPUs are looked up by version, among mmbuild's own.
    toolchain = toolchain.model_copy(update={"version": "0.12.0"})
    differing = set()
    for variant, before in rendered("0.12.0"):
        for new, old in zip(commands(variant, toolchain), before, strict=True):
            changes = set(new.groups) ^ set(old.groups)
            assert replace(new, groups=old.groups) == old
            differing |= {(new.name, *change) for change in changes}
    flag = ("build_encoder", "--context_fmha")
    assert differing == {(*flag, "disable"), (*flag, "enable")}
    for subject in ("gpus", "memory", "outputs", "logs", "reader"):
        assert version_facts("0.13.0", subject, directory) == version_facts("0.12.0", subject)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, SAMPLE),
        ({"third": "y"}, {**SAMPLE, "third": "y"}),
        ({"second": {"other": False}}, {**SAMPLE, "second": {"inner": [1, 2], "other": False}}),
        ({"second": {"inner": [3]}}, {**SAMPLE, "second": {"inner": [3], "other": True}}),
        ({"second": {"inner": None}}, {**SAMPLE, "second": {"other": True}}),
        ({"second": "y"}, {**SAMPLE, "second": "y"}),
        ({"first": None}, {"second": SAMPLE["second"], "third": "x"}),
        ({"new": 2}, {"new": 2, **SAMPLE}),
        ({"third": {}, "new": {"a": 1}}, {**SAMPLE, "new": {"a": 1}}),
        (
            {"second": {}, "new": 2, "newer": 3, "third": None},
            {"first": 1, "second": SAMPLE["second"], "new": 2, "newer": 3},
        ),
    ],
)
def test_mappings_merge_and_everything_else_replaces(changes: object, expected: dict[str, object]) -> None:
    merged = merge(SAMPLE, changes)
    assert merged == expected
    assert list(merged) == list(expected)


def test_a_key_to_remove_has_to_exist(tmp_path: Path) -> None:
    directory = added(tmp_path, "0.13.0", "extends: 0.12.0\npins: {no_such_package: null}\n")
    with pytest.raises(ValueError, match=r"0\.13\.0: toolchain: key 'no_such_package' to remove"):
        load_toolchain("0.13.0", directory)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("extends: 0.11.0\n", r"0\.11\.0/toolchain\.yaml: there is no such file: 0\.13\.0 -> 0\.11\.0"),
        ("extends: 0.13.0\n", r"0\.13\.0/toolchain\.yaml: extends itself: 0\.13\.0 -> 0\.13\.0"),
    ],
)
def test_an_unknown_base_and_a_cycle_are_refused(tmp_path: Path, text: str, problem: str) -> None:
    directory = added(tmp_path, "0.13.0", text)
    with pytest.raises(ValueError, match=problem):
        load_toolchain("0.13.0", directory)


@pytest.mark.parametrize(
    "text", ["workdirs: x\n", "commands: {run: {arguments: []}}\n", "notes: {nougat: {txt: x}}\n"]
)
def test_an_unknown_key_is_refused(tmp_path: Path, text: str) -> None:
    directory = added(tmp_path, "0.13.0", "extends: 0.12.0\n" + text)
    with pytest.raises(ValidationError):
        load_toolchain("0.13.0", directory)


@pytest.mark.parametrize("version", SUPPORTED)
def test_each_file_is_a_subject_and_states_it_alone(version: str) -> None:
    found = {path.stem for path in (DIRECTORY / version).iterdir()} - {"toolchain"}
    stated = (DIRECTORY / version / "toolchain.yaml").read_text().splitlines()
    assert found <= set(SUBJECTS)
    assert not {f"{subject}:" for subject in found} & {line.partition(" ")[0] for line in stated}
