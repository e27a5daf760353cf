"""Compiles the packages of an engine side by side, in processes forked from this one."""

from __future__ import annotations

import ctypes
import multiprocessing
import signal
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
import torch._inductor.compile_fx  # here, not in each process

from mmbuild.backends.torch import packages
from mmbuild.backends.torch.config import EngineConfig
from mmbuild.backends.torch.distributed.collectives import compiling
from mmbuild.backends.torch.export import compile_package, export_package

_PR_SET_PDEATHSIG = 1  # prctl(2)


def compile_all(
    config: EngineConfig,
    out: Path,
    target: Mapping[str, Any],
    cores: int,
    progress: Callable[[str, float], None],
) -> None:
    """Export and compile all packages of ``config`` to ``out``.

    Args:
        config: What to compile for.
        out: Directory for the packages.
        target: Device and instruction set.
        cores: Packages to compile at once.
        progress: Called as ``progress(message, fraction)``.

    Raises:
        EngineError: The model cannot be built or compiled.
    """
    names = list(packages.table(config))
    progress(f"compile {len(names)} packages", 0.0)
    # A process that has used CUDA cannot fork; threads that have computed make forks of it slow at best.
    if cores == 1 or torch.cuda.is_initialized():
        for done, name in enumerate(names, start=1):
            _compile(config, name, out, target)
            progress(f"compiled {name}", done / len(names))
        return
    with ProcessPoolExecutor(
        min(cores, len(names)), multiprocessing.get_context("fork"), initializer=_prepare
    ) as pool:
        jobs = {pool.submit(_compile, config, name, out, target): name for name in names}
        for done, job in enumerate(as_completed(jobs), start=1):
            job.result()
            progress(f"compiled {jobs[job]}", done / len(names))


def _prepare() -> None:
    """Prepare a child: it ends with its parent, and is one of as many as there are cores."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    torch.set_num_threads(1)


def _compile(config: EngineConfig, name: str, out: Path, target: Mapping[str, Any]) -> None:
    program = export_package(config, name, str(target["device"]))
    with compiling(config.tensor_parallel):
        compile_package(program, out / f"{name}.pt2", target)
