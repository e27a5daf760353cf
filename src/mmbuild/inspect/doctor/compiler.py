"""Checks for a working C++ compiler by building and loading an AOTInductor package."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile

from mmbuild.backends.environments.launch import Launch, run
from mmbuild.base.checks import Check
from mmbuild.core.execution.worker_environment import listed_environment
from mmbuild.inspect.doctor.compile_probe import MARK

SECONDS = 300.0
"""Time limit for the package; it takes 17 s on two busy cores."""

_WHY = "engines of backend torch are compiled and loaded as shared libraries"
_WAY = "install g++ (`apt install g++`), or set CXX=/usr/bin/g++"
_REQUIRED = "builds and loads a package"


def compiler_check(seconds: float = SECONDS) -> Check:
    """Build, load and call a small package in a separate process with an empty cache."""
    name = os.environ.get("CXX", "g++")
    path = shutil.which(name)
    if path is None:
        return Check("compiler", "fail", f"`{name}` not found", _REQUIRED, _WHY, _WAY)
    with tempfile.TemporaryDirectory(prefix="mmbuild-doctor-") as directory:
        variables = {"TORCHINDUCTOR_CACHE_DIR": directory, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        argv = (sys.executable, "-m", "mmbuild.inspect.doctor.compile_probe", directory)
        done = run(Launch(argv, {**listed_environment(), **variables}), directory, seconds)
    if done is None:
        reason = f"no package within {seconds:g} s; {_WHY}"
        return Check("compiler", "fail", path, _REQUIRED, reason, "check what the compiler is waiting for")
    line = next((line for line in done.stdout.splitlines() if line.startswith(MARK)), None)
    if done.returncode == 0 and line is not None:
        times = json.loads(line.removeprefix(MARK))
        return Check(
            "compiler",
            "ok",
            f"{path}; a package took {times['compile']:.1f} s, loading {times['load']:.2f} s",
        )
    return Check(
        "compiler", "fail", path, _REQUIRED, f"{_reason(done.returncode, done.stderr)}; {_WHY}", _WAY
    )


def untried() -> Check:
    """The check without building anything."""
    name = os.environ.get("CXX", "g++")
    path = shutil.which(name)
    if path is None:
        return Check("compiler", "fail", f"`{name}` not found", _REQUIRED, _WHY, _WAY)
    return Check("compiler", "unknown", path, _REQUIRED, "not tried (--quick)")


def _reason(status: int, stderr: str) -> str:
    if status < 0:
        return f"loading the package killed the process with signal {-status}"
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    message = next((line for line in lines if "error:" in line.lower()), lines[-1] if lines else "no message")
    return message[:300]
