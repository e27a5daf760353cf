"""Queries of environments, with real processes."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

import pytest

from mmbuild.backends.environments.probe import (
    ProbeError,
    examples_revision,
    installed,
    interpreter_versions,
    normalized,
    revision_of,
)
from mmbuild.backends.tensorrt_llm.toolchains.load import pinned_distributions
from mmbuild.config.model import Container, Interpreter, ToolchainEnvironment
from support.toolchain.environments import (
    git,
    make_checkout,
    make_engine,
    make_program,
    make_python,
    recorded,
)

TRTLLM = {
    "tensorrt_llm": "0.9.0",
    "tensorrt": "9.3.0.post12.dev1",
    "torch": "2.2.0a0+81ea7a4",
    "unpinned": "1",
}
HERE = ".".join(str(number) for number in sys.version_info[:3])


def hosted(python: Path) -> ToolchainEnvironment:
    return ToolchainEnvironment(python=python, examples=Path("/examples"))


def in_container(image: str, engine: str = "docker") -> ToolchainEnvironment:
    # mounted, so it must exist
    return ToolchainEnvironment(container=Container(engine=engine, image=image), examples=Path("/"))


def failure(environment: ToolchainEnvironment, **more: float) -> ProbeError:
    with pytest.raises(ProbeError) as caught:
        installed(environment, pinned_distributions(), **more)
    return caught.value


def test_pinned_distributions_and_python_by_normalized_name(tmp_path: Path) -> None:
    found = installed(hosted(make_python(tmp_path, TRTLLM)), pinned_distributions())
    assert found == {
        "python": HERE,
        "tensorrt-llm": "0.9.0",
        "tensorrt": "9.3.0.post12.dev1",
        "torch": "2.2.0a0+81ea7a4",
    }


def test_an_environment_without_any_of_them(tmp_path: Path) -> None:
    assert installed(hosted(make_python(tmp_path, {})), pinned_distributions()) == {"python": HERE}


def test_a_real_environment() -> None:
    found = installed(hosted(Path(sys.executable)), ["PyTest", "no-such-distribution"])
    assert found == {"python": HERE, "pytest": metadata.version("pytest")}


def test_every_pinned_distribution_is_queried() -> None:
    assert {
        "tensorrt-llm",
        "tensorrt",
        "torch",
        "transformers",
        "nvidia-ammo",
        "nvidia-modelopt",
        "mpi4py",
    } <= set(pinned_distributions())
    assert normalized("Tensorrt__LLM.x") == "tensorrt-llm-x"


@pytest.mark.parametrize("engine", ["docker", "podman"])
def test_a_container_is_queried_through_its_engine_and_may_print_a_banner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    program = make_engine(tmp_path / "bin", engine, make_python(tmp_path / "image", TRTLLM))
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    assert installed(in_container("image:tag", engine), pinned_distributions())["tensorrt-llm"] == "0.9.0"
    argv, _ = recorded(program)
    assert argv[:2] == ["run", "--rm"]


def test_a_missing_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = make_engine(tmp_path, "docker", Path(sys.executable))
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    error = failure(in_container("missing:tag"))
    assert error.code == "MM615"
    assert "no such image" in error.message


def test_a_missing_container_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert failure(in_container("image:tag", "podman")).code == "MM615"


def test_a_missing_interpreter(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no program", "utf-8")
    assert "does not exist" in failure(hosted(tmp_path / "gone")).message
    assert "cannot be run" in failure(hosted(tmp_path / "file")).message
    assert failure(hosted(tmp_path)).code == "MM614"


def test_an_executable_for_another_machine(tmp_path: Path) -> None:
    assert failure(hosted(make_program(tmp_path / "python", "\x7fELF of nothing"))).code == "MM614"


def test_a_hanging_process_is_killed_with_its_children(tmp_path: Path) -> None:
    started = tmp_path / "started"
    program = make_program(tmp_path / "python", f"#!/bin/sh\nsleep 1000 & echo $! > {started}\nwait\n")
    error = failure(hosted(program), seconds=1.0)
    assert error.code == "MM616"
    assert not running(int(started.read_text("utf-8")))


def running(process: int) -> bool:
    """Whether a process runs; a killed process that is not yet reaped does not."""
    try:
        state = Path(f"/proc/{process}/stat").read_text("utf-8").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in ("Z", "X")


@pytest.mark.parametrize(
    "body", ["exit 3", "echo hello", "echo mmbuild-installed:[]; exit 0", "echo 'mmbuild-installed:{'"]
)
def test_an_invalid_answer(tmp_path: Path, body: str) -> None:
    error = failure(hosted(make_program(tmp_path / "python", f"#!/bin/sh\necho because >&2\n{body}\n")))
    assert error.code == "MM617"
    assert "because" in error.message


def test_an_interpreter_for_tensorrt(tmp_path: Path) -> None:
    python = make_python(tmp_path, {"tensorrt": "8.6.1", "numpy": "1.26.4", "torch": "2.9.0"})
    assert interpreter_versions(Interpreter(python=python)) == {
        "python": HERE,
        "tensorrt": "8.6.1",
        "numpy": "1.26.4",
    }


def test_the_commit_of_a_checkout(tmp_path: Path) -> None:
    commit = make_checkout(tmp_path, ["examples/multimodal/run.py"], tag="v0.9.0")
    assert examples_revision(tmp_path) == commit
    assert revision_of(tmp_path, "v0.9.0") == commit
    assert revision_of(tmp_path, commit) == commit
    assert revision_of(tmp_path, "v0.10.0") is None
    git(tmp_path, "commit", "--quiet", "--allow-empty", "--message", "later")
    assert examples_revision(tmp_path) != commit
    assert revision_of(tmp_path, "v0.9.0") == commit


def test_a_directory_that_is_not_itself_a_checkout_has_no_commit(tmp_path: Path) -> None:
    make_checkout(tmp_path, ["examples/run.py"])
    assert examples_revision(tmp_path / "examples") is None
    assert examples_revision(tmp_path / "gone") is None


def test_without_git_no_commit_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_checkout(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    assert examples_revision(tmp_path) is None
