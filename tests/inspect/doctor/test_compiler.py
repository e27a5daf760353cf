"""The compiler check, with the real compiler and with broken ones."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mmbuild.inspect.doctor.compiler import compiler_check, untried
from support.toolchain.environments import make_program


@pytest.mark.slow
def test_the_compiler_of_this_machine_builds_a_package_that_loads() -> None:
    item = compiler_check()
    assert (item.status, item.why) == ("ok", "")
    assert re.search(r"a package took \d+\.\d s, loading \d+\.\d+ s", item.found)


def test_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    for item in (compiler_check(), untried()):
        assert item.status == "fail"
        assert "`no-such-compiler` not found" in item.found
        assert "g++" in item.hint


@pytest.mark.slow
def test_a_compiler_that_compiles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = make_program(tmp_path / "g++", "#!/bin/sh\necho 'fatal error: iostream' >&2\nexit 1\n")
    monkeypatch.setenv("CXX", str(broken))
    item = compiler_check()
    assert item.status == "fail"
    assert item.why.startswith("fatal error: iostream")


def test_compiler_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", str(make_program(tmp_path / "g++", "#!/bin/sh\nexec sleep 1000\n")))
    item = compiler_check(seconds=0.5)
    assert item.status == "fail"
    assert "0.5 s" in item.why


def test_quick_leaves_the_compiler_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "sh")
    assert untried().status == "unknown"
