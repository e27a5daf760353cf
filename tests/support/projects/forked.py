"""Runs `mmbuild` in a process forked from one that has imported it, which takes most of a short command's time.

Fork servers of `apply` are forked as well (``warm_workers.py``).
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

from mmbuild.core.execution import run_plan
from support.projects import warm_workers

# Neither torch nor what reads the environment when it is imported.
_IMPORTED = (
    "mmbuild.api",
    "mmbuild.backends.tensorrt_llm.lower",
    "mmbuild.backends.torch.backend",
    "mmbuild.cli.apply",
    "mmbuild.cli.plan",
    "mmbuild.config.load",
    "mmbuild.core.execution.history_sink",
    "mmbuild.inspect.diff.trace",
    "mmbuild.models.families.llava.files",
    "mmbuild.models.images",
    "mmbuild.models.validation.consistency",
    "mmbuild.pipeline.planning",
    "mmbuild.schema.rules",
    "mmbuild.team.remote_cache.remote_cache",
    "support.projects.warm_workers",
)


def run_forked(
    arguments: list[str], cwd: Path, environment: Mapping[str, str], seconds: float = 120
) -> subprocess.CompletedProcess[str]:
    """Return what `python -m mmbuild` with ``arguments`` prints and its status, as :func:`subprocess.run` does."""
    with tempfile.TemporaryDirectory() as place:
        out, err = Path(place, "out"), Path(place, "err")
        given = (arguments, cwd, dict(environment), out, err, warm_workers.address())
        process = _context(environment["PYTHONPATH"]).Process(target=_run, args=given)
        process.start()
        process.join(seconds)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(arguments, seconds)
        return subprocess.CompletedProcess(arguments, process.exitcode, out.read_text(), err.read_text())


@cache
def _context(module_path: str) -> ForkServerContext:
    """Start the process that imports; it finds modules by ``module_path``."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_IMPORTED))
    before = dict(os.environ)
    os.environ["PYTHONPATH"] = module_path
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return context


def start_on_terminal(
    arguments: list[str], cwd: Path, environment: Mapping[str, str], terminal: str
) -> BaseProcess:
    """Start mmbuild with the terminal device ``terminal`` as its input, output, error and controlling terminal."""
    given = (arguments, cwd, dict(environment), terminal, warm_workers.address())
    process = _context(environment["PYTHONPATH"]).Process(target=_run_on_terminal, args=given)
    process.start()
    return process


def _run_on_terminal(
    arguments: list[str], cwd: Path, environment: dict[str, str], terminal: str, workers: str
) -> None:
    os.setsid()
    descriptor = os.open(terminal, os.O_RDWR)  # the first of a session, so it controls it
    for number in range(3):
        os.dup2(descriptor, number)
    os.close(descriptor)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    _become_mmbuild(arguments, cwd, environment, workers)
    runpy.run_module("mmbuild", run_name="__main__", alter_sys=True)


def _become_mmbuild(arguments: list[str], cwd: Path, environment: dict[str, str], workers: str) -> None:
    run_plan.start_workers = warm_workers.starter(workers)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["mmbuild", *arguments]


def _run(
    arguments: list[str], cwd: Path, environment: dict[str, str], out: Path, err: Path, workers: str
) -> None:
    _become_mmbuild(arguments, cwd, environment, workers)
    with out.open("w", encoding="utf-8") as sys.stdout, err.open("w", encoding="utf-8") as sys.stderr:
        os.dup2(sys.stdout.fileno(), 1)
        os.dup2(sys.stderr.fileno(), 2)
        runpy.run_module("mmbuild", run_name="__main__", alter_sys=True)
