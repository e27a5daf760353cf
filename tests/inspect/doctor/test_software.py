"""Packages and programs of this host, and TensorRT's interpreter."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mmbuild.base import host
from mmbuild.base.checks import failed_checks
from mmbuild.config.model import Interpreter
from mmbuild.inspect.doctor import software
from support.toolchain.environments import make_program, make_python


def versions(monkeypatch: pytest.MonkeyPatch, found: dict[str, str]) -> None:
    monkeypatch.setattr(host, "installed_versions", lambda names: {n: found[n] for n in names if n in found})


def test_installed_extra() -> None:
    found = {item.name: item for item in software.extra_checks("torch", needed=True)}
    assert set(found) == {"torch", "transformers", "tokenizers", "pillow"}
    assert failed_checks(found.values()) == ()


def test_unsupported_torch_version(monkeypatch: pytest.MonkeyPatch) -> None:
    versions(monkeypatch, {"torch": "2.6.0", "transformers": "5.17.0", "tokenizers": "1", "pillow": "11"})
    (item,) = failed_checks(software.extra_checks("torch", needed=False))
    assert (item.name, item.found) == ("torch", "2.6.0")
    assert "[torch]'" in item.hint


def test_missing_package_fails_if_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    versions(monkeypatch, {})
    assert {item.status for item in software.extra_checks("torch", needed=True)} == {"fail"}
    assert {item.status for item in software.extra_checks("torch", needed=False)} == {"warn"}


def test_programs_of_scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_program(tmp_path / "git", "#!/bin/sh\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert [item.status for item in software.script_checks()] == ["ok", "warn"]


def test_mpirun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMBUILD_MPIRUN", str(tmp_path / "mpirun"))
    assert software.mpirun_check(2).status == "fail"
    make_program(tmp_path / "mpirun", "#!/bin/sh\necho 'mpirun (Open MPI) 5.0.8'\n")
    assert software.mpirun_check(2).found == f"{tmp_path / 'mpirun'} (Open MPI)"


@pytest.mark.parametrize(
    ("distributions", "faulty"),
    [
        ({"tensorrt": "8.6.0", "numpy": "1.26.4"}, set()),
        ({"tensorrt": "11.4.1", "numpy": "2.1.0"}, set()),
        ({"tensorrt": "12.0.0", "numpy": "2.1.0"}, {"tensorrt"}),
        ({"tensorrt": "8.5.3.1", "numpy": "2.1.0"}, {"tensorrt"}),
        ({"numpy": "2.1.0"}, {"tensorrt"}),
        ({"tensorrt": "10.13.3.9"}, {"numpy beside tensorrt"}),
    ],
)
def test_tensorrts_interpreter(tmp_path: Path, distributions: dict[str, str], faulty: set[str]) -> None:
    interpreter = Interpreter(python=make_python(tmp_path, distributions))
    found = list(software.tensorrt_checks(interpreter, needed=False))
    assert {item.name for item in failed_checks(found)} == faulty


def test_tensorrts_interpreter_that_is_missing(tmp_path: Path) -> None:
    (item,) = software.tensorrt_checks(Interpreter(python=tmp_path / "gone"), needed=False)
    assert item.status == "fail"
    assert list(software.tensorrt_checks(None, needed=False)) == []
    (item,) = software.tensorrt_checks(None, needed=True)
    assert "set-tensorrt" in item.hint


def test_installed_program() -> None:
    item = software.program_check("sh", needed=True, why="", hint="")
    assert (item.status, item.found) == ("ok", shutil.which("sh"))
