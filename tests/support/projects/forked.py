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


def _run(
    arguments: list[str], cwd: Path, environment: dict[str, str], out: Path, err: Path, workers: str
) -> None:
    run_plan.start_workers = warm_workers.starter(workers)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["mmbuild", *arguments]
    with out.open("w", encoding="utf-8") as sys.stdout, err.open("w", encoding="utf-8") as sys.stderr:
        os.dup2(sys.stdout.fileno(), 1)
        os.dup2(sys.stderr.fileno(), 2)
        runpy.run_module("mmbuild", run_name="__main__", alter_sys=True)
