"""Which versions of TensorRT-LLM there are toolchains for, and the messages about others."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest

from mmbuild.backends.tensorrt_llm.toolchains.load import load_toolchain
from mmbuild.schema.tensorrt_llm_versions import SUPPORTED, ToolchainError, nearest, require
from support.errors import refused
from support.projects.recipe_project import RECIPE, codes, load, only, pointed


@pytest.mark.parametrize("version", SUPPORTED)
def test_each_supported_version_has_its_own_directory(version: str) -> None:
    assert require(version) == version
    assert load_toolchain(version).version == version


def test_there_is_no_directory_without_a_version() -> None:
    found = {
        item.name
        for item in files("mmbuild.backends.tensorrt_llm.toolchains").iterdir()
        if item.name[0].isdigit()
    }
    assert found == set(SUPPORTED)


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("0.8.0", "0.9.0"),
        ("0.9", "0.9.0"),
        ("0.9.0.dev2024040200", "0.9.0"),
        ("0.11.0", "0.12.0"),  # between two: the newer
        ("0.13.0", "0.12.0"),
        ("0.16.0", "0.12.0"),
        ("0.17.0", "0.12.0"),
        ("0.18.0", "1.2"),  # six releases from either, for 1.0 follows 0.21
        ("0.21.0", "1.2"),
        ("1.0", "1.2"),
        ("1.1.0", "1.2"),
        ("1.2.1", "1.2"),
        ("1.2.0rc6", "1.2"),
    ],
)
def test_a_version_between_is_refused_and_the_nearest_named(version: str, expected: str) -> None:
    assert nearest(version) == expected
    error = refused(ToolchainError, "MM601", require, version)
    assert f"nearest version with one is {expected}" in error.message
    assert all(known in str(error.hint) for known in SUPPORTED)


@pytest.mark.parametrize("version", ["1.3", "1.3.0", "1.3.0rc20", "2.0", "1.10"])
def test_a_newer_version_is_refused_with_the_reason_and_the_ways_on(version: str) -> None:
    error = refused(ToolchainError, "MM602", require, version)
    assert "1.3.0rc20" in error.message
    assert "toolchain '1.2'" in str(error.hint)
    assert "engine.backend=torch" in str(error.hint)


@pytest.mark.parametrize("version", ["latest", "", "1", "v1.2", "../1.2", "1.2.yaml"])
def test_an_invalid_version_is_rejected(version: str) -> None:
    refused(ToolchainError, "MM601", require, version)
    refused(ToolchainError, "MM601", load_toolchain, version)


@pytest.mark.parametrize("version", SUPPORTED)
def test_recipes_accept_every_supported_version(tmp_path: Path, version: str) -> None:
    assert codes(load(tmp_path, RECIPE + f"  tensorrt_llm: {{toolchain: '{version}'}}\n")) == []


@pytest.mark.parametrize(("version", "code"), [("0.11.0", "MM601"), ("1.2.1", "MM601"), ("1.3", "MM602")])
def test_an_unsupported_version_is_reported_at_its_key(tmp_path: Path, version: str, code: str) -> None:
    # The backend is torch: sections of other backends are validated too.
    finding = only(load(tmp_path, RECIPE + f"  tensorrt_llm: {{toolchain: '{version}'}}\n"))
    assert finding.code == code
    assert version in pointed(finding)


def test_an_invalid_version_is_reported_at_its_key(tmp_path: Path) -> None:
    finding = only(load(tmp_path, RECIPE + "  tensorrt_llm: {toolchain: newest}\n"))
    assert finding.code == "MM116"
    assert "0.12.0" in str(finding.hint)
