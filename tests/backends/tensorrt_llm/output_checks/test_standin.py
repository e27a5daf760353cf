"""The stand-in programs that the tests of command outputs rely on, run as real processes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from mmbuild.backends.tensorrt_llm.output_checks.check import check
from mmbuild.backends.tensorrt_llm.output_checks.expectations import expect
from mmbuild.backends.tensorrt_llm.output_checks.log_patterns import scan
from mmbuild.backends.tensorrt_llm.toolchains.commands import Command, commands
from mmbuild.backends.tensorrt_llm.toolchains.load import load_toolchain
from mmbuild.schema.resolved import ResolvedRecipe
from mmbuild.schema.tensorrt_llm_versions import SUPPORTED
from support.marks import slow_except
from support.toolchain.cases import load
from support.toolchain.fake_tensorrt_llm.install import install
from support.toolchain.products import MADE, fetch


def start(
    step: Command, root: Path, programs: Path, argv: list[str] | None = None
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    return subprocess.run(
        argv or list(step.argv),
        cwd=root / step.workdir,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def built(version: str, root: Path) -> tuple[ResolvedRecipe, list[Command], Path, Path]:
    """LLaVA on two ranks, each command run unchanged."""
    (variant,) = load("llava-fp16", "engine.tensor_parallel=2")
    toolchain = load_toolchain(version)
    checkout, programs = install(version, root)
    fetch(variant, version, checkout)
    steps = [step for step in commands(variant, toolchain) if step.step in (*MADE, "run")]
    for step in steps:
        if step.step in MADE:
            done = start(step, checkout, programs)
            assert done.returncode == 0, done.stderr
            assert scan(done.stdout.splitlines(), version) == ()
            assert check(expect(step, variant, toolchain), checkout / step.workdir) == ()
    return variant, steps, checkout, programs


@pytest.mark.parametrize("version", slow_except(SUPPORTED, "0.9.0", "1.2"))
def test_programs_build_and_answer(version: str, tmp_path: Path) -> None:
    _, steps, checkout, programs = built(version, tmp_path)
    (step,) = (step for step in steps if step.name == "run")
    done = start(step, checkout, programs)
    assert (done.returncode, scan(done.stderr.splitlines(), version)) == (0, ()), done.stderr

    alone = start(step, checkout, programs, list(step.argv[4:]))
    assert alone.returncode == 1
    assert [item.finding.code for item in scan(alone.stderr.splitlines(), version)] == ["MM670"]


def test_programs_refuse_flags_that_the_version_does_not_have(tmp_path: Path) -> None:
    _, steps, checkout, programs = built("1.2", tmp_path)
    (step,) = (step for step in steps if step.step == "build_llm")
    done = start(step, checkout, programs, [*step.argv, "--max_output_len", "5"])
    assert done.returncode == 1
    assert [item.finding.code for item in scan(done.stderr.splitlines(), "1.2")] == ["MM683"]
