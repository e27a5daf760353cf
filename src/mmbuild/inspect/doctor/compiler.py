"""Whether a C++ compiler is there that can build an AOTInductor package which then loads: by doing it."""

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
"""How long the package may take; it took 17 s on two busy cores."""

_WHY = "engines of backend torch are compiled, and loaded as shared libraries"
_WAY = "Install g++ (`apt install g++`), or name one with CXX=/usr/bin/g++"
_WANTED = "builds and loads a package"


def compiler_check(seconds: float = SECONDS) -> Check:
    """Build, load and call a small package in a process of its own, with a cache of its own."""
    name = os.environ.get("CXX", "g++")
    path = shutil.which(name)
    if path is None:
        return Check("compiler", "fail", f"`{name}` not found", _WANTED, _WHY, _WAY)
    with tempfile.TemporaryDirectory(prefix="mmbuild-doctor-") as directory:
        variables = {"TORCHINDUCTOR_CACHE_DIR": directory, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        argv = (sys.executable, "-m", "mmbuild.inspect.doctor.compile_probe", directory)
        done = run(Launch(argv, {**listed_environment(), **variables}), directory, seconds)
    if done is None:
        why = f"no package within {seconds:g} s; {_WHY}"
        return Check("compiler", "fail", path, _WANTED, why, "Look what the compiler waits for")
    line = next((line for line in done.stdout.splitlines() if line.startswith(MARK)), None)
    if done.returncode == 0 and line is not None:
        times = json.loads(line.removeprefix(MARK))
        return Check(
            "compiler",
            "ok",
            f"{path}; a package took {times['compile']:.1f} s, loading {times['load']:.2f} s",
        )
    return Check("compiler", "fail", path, _WANTED, f"{_reason(done.returncode, done.stderr)}; {_WHY}", _WAY)


def untried() -> Check:
    """What is known without building anything."""
    name = os.environ.get("CXX", "g++")
    path = shutil.which(name)
    if path is None:
        return Check("compiler", "fail", f"`{name}` not found", _WANTED, _WHY, _WAY)
    return Check("compiler", "unknown", path, _WANTED, "not tried (--quick)")


def _reason(status: int, stderr: str) -> str:
    if status < 0:
        return f"the package ended the process that loaded it with signal {-status}"
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    wrong = next((line for line in lines if "error:" in line.lower()), lines[-1] if lines else "no message")
    return wrong[:300]
