"""Checks of a toolchain's environment, with stand-in interpreters and checkouts."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pytest

from mmbuild.backends.tensorrt_llm.checks import toolchain as checked
from mmbuild.backends.tensorrt_llm.checks.requirements import programs, requirements
from mmbuild.backends.tensorrt_llm.checks.toolchain import container_checks, toolchain_checks
from mmbuild.backends.tensorrt_llm.toolchains.load import load_toolchain
from mmbuild.base.checks import Check, failed_checks
from mmbuild.config.model import Container, ToolchainEnvironment
from mmbuild.schema.tensorrt_llm_versions import SUPPORTED, ToolchainError
from support.toolchain.environments import git, make_checkout, make_engine, make_program, make_python

VERSION = "0.10.0"
RIGHT = {
    "tensorrt_llm": "0.10.0",
    "tensorrt": "10.0.1",
    "torch": "2.3.0a0+ebedce2",
    "nvidia-modelopt": "0.11.2",
    "transformers": "4.40.2",
    "numpy": "1.26.4",
}


@pytest.fixture(autouse=True)
def this_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins run on the tests' Python; the toolchain's Python range is widened to include it."""
    real = checked.load_toolchain

    def with_this_python(version: str) -> Any:
        here = f"=={sys.version_info[0]}.{sys.version_info[1]}.*"
        return real(version).model_copy(update={"python": here})

    monkeypatch.setattr(checked, "load_toolchain", with_this_python)


def make(
    directory: Path,
    distributions: Mapping[str, str] = RIGHT,
    *,
    tag: str = "v0.10.0",
    tools: tuple[str, ...] = (),
) -> ToolchainEnvironment:
    """An environment with ``distributions``, trtllm-build and ``tools``, and a checkout at ``tag``."""
    python = make_python(directory / "venv", distributions)
    for name in ("trtllm-build", "wget", *tools):
        make_program(python.parent / name, "#!/bin/sh\n")
    examples = directory / "TensorRT-LLM"
    if not examples.exists():
        make_checkout(examples, ["examples/multimodal/run.py"], tag=tag)
    return ToolchainEnvironment(python=python, examples=examples, variables={"PATH": "/usr/bin:/bin"})


def check(environment: ToolchainEnvironment | None, **more: Any) -> dict[str, Check]:
    given = {"sm": 90, "families": ["llava"], **more}
    return {item.name: item for item in toolchain_checks(VERSION, environment, **given)}


def failed(checks: Mapping[str, Check]) -> set[str]:
    return {item.name for item in failed_checks(checks.values())}


def test_a_complete_environment_passes(tmp_path: Path) -> None:
    found = check(make(tmp_path))
    assert {name: item.status for name, item in found.items()} == dict.fromkeys(found, "ok")
    assert set(found) == {
        *("environment", "python", "tensorrt-llm", "tensorrt", "torch", "nvidia-modelopt", "transformers"),
        *("numpy", "trtllm-build", "examples", "gpu"),
    }
    assert found["tensorrt-llm"].found == "0.10.0"


def test_no_configured_environment() -> None:
    found = check(None)
    assert failed(found) == {"environment"}
    assert "mmbuild config set-toolchain 0.10.0" in found["environment"].hint
    assert "engine.backend=torch" in found["environment"].hint


def test_without_a_gpu(tmp_path: Path) -> None:
    assert failed(check(make(tmp_path), sm=None)) == {"gpu"}
    assert failed(check(None, sm=None)) == {"environment", "gpu"}


@pytest.mark.parametrize(
    ("name", "version", "status"),
    [
        ("tensorrt_llm", "0.9.0", "fail"),
        ("tensorrt_llm", None, "fail"),
        ("tensorrt", "10.1.0", "fail"),
        ("torch", "2.4.0", "fail"),
        ("transformers", "4.44.0", "fail"),
        ("transformers", None, "fail"),
        ("numpy", "2.0.0", "warn"),
        ("nvidia-modelopt", None, "warn"),
        ("torch", "of my own making", "unknown"),
    ],
)
def test_a_version_that_differs_from_its_pin(
    tmp_path: Path, name: str, version: str | None, status: str
) -> None:
    given = {key: value for key, value in RIGHT.items() if key != name}
    if version is not None:
        given[name] = version
    found = check(make(tmp_path, given))
    item = found[name.replace("_", "-")]
    assert item.status == status
    assert failed(found) == ({item.name} if status == "fail" else set())
    if status != "unknown":
        assert item.found == (version or "not installed")
        assert "-m pip install" in item.hint


def test_tensorrt_under_its_other_name(tmp_path: Path) -> None:
    given = {name: version for name, version in RIGHT.items() if name != "tensorrt"}
    assert check(make(tmp_path, {**given, "tensorrt-cu12": "10.0.1"}))["tensorrt"].status == "ok"


def test_a_version_that_the_installed_tensorrt_llm_requires_only_warns(tmp_path: Path) -> None:
    environment = make(tmp_path, {**RIGHT, "transformers": "4.41.0", "torch": "2.4.0"})
    metadata = next((tmp_path / "venv" / "site").glob("tensorrt_llm-*/METADATA"))
    metadata.write_text(metadata.read_text("utf-8") + "Requires-Dist: transformers==4.41.0\n", "utf-8")
    found = check(environment)
    assert found["transformers"].status == "warn"
    assert failed(found) == {"torch"}


def test_another_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checked, "load_toolchain", load_toolchain)
    real = load_toolchain(VERSION)
    found = check(make(tmp_path))
    expected = "ok" if sys.version_info[:2] == (3, 10) else "fail"
    assert (found["python"].status, found["python"].required) == (expected, real.python)


def test_an_environment_that_does_not_respond(tmp_path: Path) -> None:
    environment = make(tmp_path)
    gone = environment.model_copy(update={"python": tmp_path / "gone"})
    found = check(gone)
    assert set(found) == {"environment", "examples", "gpu"}
    assert failed(found) == {"environment"}
    assert "does not exist" in found["environment"].why


def test_programs_of_the_commands(tmp_path: Path) -> None:
    environment = make(tmp_path)
    (tmp_path / "venv" / "bin" / "trtllm-build").unlink()
    found = check(environment)
    assert failed(found) == {"trtllm-build"}
    assert str(environment.python) in found["trtllm-build"].hint


def test_only_several_ranks_require_mpirun(tmp_path: Path) -> None:
    environment = make(tmp_path).model_copy(update={"variables": {"PATH": "/nowhere"}})
    assert "mpirun" not in check(environment)
    assert failed(check(environment, ranks=2)) == {"mpirun"}
    make_program(tmp_path / "venv" / "bin" / "mpirun", "#!/bin/sh\n")
    assert failed(check(environment, ranks=2)) == set()


def test_examples_at_another_commit(tmp_path: Path) -> None:
    environment = make(tmp_path)
    git(environment.examples, "commit", "--quiet", "--allow-empty", "--message", "later")
    found = check(environment)
    assert failed(found) == {"examples"}
    assert "checkout v0.10.0" in found["examples"].hint


def test_examples_of_the_installed_version_only_warn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = checked.load_toolchain
    pins = {**load_toolchain(VERSION).pins, "tensorrt_llm": ">=0.10,<0.11"}
    monkeypatch.setattr(
        checked, "load_toolchain", lambda version: real(version).model_copy(update={"pins": pins})
    )
    environment = make(tmp_path, {**RIGHT, "tensorrt_llm": "0.10.3"}, tag="v0.10.3")
    assert check(environment)["examples"].status == "warn"
    assert failed(check(environment)) == set()
    other = make(tmp_path / "other", {**RIGHT, "tensorrt_llm": "0.10.4"}, tag="v0.10.3")
    assert failed(check(other)) == {"examples"}


def test_examples_that_are_missing_or_have_no_history(tmp_path: Path) -> None:
    environment = make(tmp_path)
    bare = tmp_path / "bare"
    for place, expected in ((tmp_path / "gone", "fail"), (bare, "fail")):
        bare.mkdir(exist_ok=True)
        found = check(environment.model_copy(update={"examples": place}))["examples"]
        assert found.status == expected
        assert found.hint.startswith("git clone https://github.com/NVIDIA/TensorRT-LLM")
    (bare / "examples" / "multimodal").mkdir(parents=True)
    assert check(environment.model_copy(update={"examples": bare}))["examples"].status == "unknown"


def test_a_container_is_checked_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = make(tmp_path)
    assert environment.python is not None
    engine = make_engine(tmp_path / "host", "docker", environment.python)
    monkeypatch.setenv("PATH", str(engine.parent), prepend=":")
    inside = ToolchainEnvironment(
        container=Container(engine="docker", image="trtllm:0.10.0"),
        examples=environment.examples,
        variables={"PATH": f"{environment.python.parent}:/usr/bin:/bin"},
    )
    found = check(inside)
    assert failed(found) == set()
    assert found["environment"].found == "docker image trtllm:0.10.0"
    missing = inside.model_copy(update={"container": Container(engine="docker", image="missing:0.10.0")})
    assert failed(check(missing)) == {"environment"}


def test_an_unknown_version() -> None:
    with pytest.raises(ToolchainError):
        toolchain_checks("0.11.0", None, sm=90)


def test_a_familys_requirement_overrides_the_versions_pin() -> None:
    toolchain = load_toolchain("0.12.0")
    own = {item.name: item for item in requirements(toolchain, ["vila"])}
    assert (own["transformers"].specifier, own["transformers"].families) == ("==4.36.2", ("vila",))
    assert own["s2wrapper"].families == ("vila",)
    both = [item for item in requirements(toolchain, ["llava", "vila"]) if item.name == "transformers"]
    assert [(item.specifier, item.families) for item in both] == [(">=4.38.2", ()), ("==4.36.2", ("vila",))]
    none = [item for item in requirements(toolchain, ["llava"]) if item.families]
    assert none == []


def test_a_familys_requirement_only_warns_if_the_family_is_not_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = checked.load_toolchain
    families = load_toolchain("0.12.0").families
    monkeypatch.setattr(
        checked, "load_toolchain", lambda version: real(version).model_copy(update={"families": families})
    )
    environment = make(tmp_path)
    assert failed(check(environment, families=[])) == set()
    assert check(environment, families=[])["transformers (vila)"].status == "warn"
    assert failed(check(environment, families=["vila"])) == {"s2wrapper (vila)", "transformers (vila)"}


@pytest.mark.parametrize("version", SUPPORTED)
def test_every_version_lists_its_programs(version: str) -> None:
    toolchain = load_toolchain(version)
    one = programs(toolchain, ["llava"], 1)
    assert "trtllm-build" in one
    assert not {"python", "git", "mpirun"} & set(one)
    assert set(programs(toolchain, ["llava"], 2)) == {*one, "mpirun"}


def test_checks_are_immutable() -> None:
    item = check(None)["environment"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        item.status = "ok"  # type: ignore[misc]


@pytest.mark.parametrize(("engine", "status"), [("docker", "ok"), ("podman", "fail")])
def test_the_program_of_a_configured_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: Literal["docker", "podman"], status: str
) -> None:
    make_program(tmp_path / "docker", "#!/bin/sh\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    environment = ToolchainEnvironment(container=Container(engine=engine, image="x"), examples=tmp_path)
    assert [item.status for item in container_checks(environment)] == [status]
    assert not list(container_checks(None))
