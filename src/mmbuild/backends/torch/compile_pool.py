"""Compiles the packages of an engine side by side, in processes forked from this one."""

from __future__ import annotations

import ctypes
import multiprocessing
import signal
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch._inductor.compile_fx  # here, not in each process
from torch.export import ExportedProgram

from mmbuild.backends.torch import package_cache
from mmbuild.backends.torch.export import compile_package
from mmbuild.base.errors import MmbuildError
from mmbuild.base.progress import Amount, Progress

_PR_SET_PDEATHSIG = 1  # prctl(2)


@dataclass(frozen=True, slots=True)
class Packages:
    """What to compile.

    Attributes:
        programs: Makes the graph of each package, by name.
        out: Directory for the packages.
        target: Device and instruction set.
        compiling: Context to compile in.
    """

    programs: Mapping[str, Callable[[], ExportedProgram]]
    out: Path
    target: Mapping[str, Any]
    compiling: Callable[[], AbstractContextManager[None]] = nullcontext

    def compile(self, name: str) -> None:
        """Export and compile one package to ``<name>.pt2``."""
        program = self.programs[name]()
        with self.compiling():
            compile_package(program, self.out / f"{name}.pt2", self.target)


def compile_all(packages: Packages, cores: int, progress: Progress) -> None:
    """Export and compile all packages.

    Args:
        packages: The packages. They need not be picklable.
        cores: Packages to compile at once.
        progress: Called with the packages that are being compiled, and how many are done.

    Raises:
        EngineError: A package cannot be exported or compiled.
    """
    # Layers take longest: with them first, all processes end at about the same time.
    names = sorted(packages.programs, key=lambda name: "layer" not in name)
    # A process that has used CUDA cannot fork; threads that have computed make forks of it slow at best.
    if cores == 1 or torch.cuda.is_initialized():
        for done, name in enumerate(names):
            progress(*_state(names[done:], len(names), 1))
            packages.compile(name)
        progress(*_state((), len(names), 1))
        return
    with suppress(Exception):  # without a compiler, which the first package reports
        package_cache.surroundings()  # once for all processes
    workers = min(cores, len(names))
    with ProcessPoolExecutor(
        workers,
        multiprocessing.get_context("fork"),
        initializer=_prepare,
        initargs=(packages,),
    ) as pool:
        jobs = {pool.submit(_compile, name): name for name in names}
        left = dict.fromkeys(names)
        progress(*_state(left, len(names), workers))
        for job in as_completed(jobs):
            job.result()
            del left[jobs[job]]
            progress(*_state(left, len(names), workers))


def _state(left: Iterable[str], total: int, workers: int) -> tuple[str, Amount]:
    """The report on packages that are not compiled, the first of which are being compiled: they start in order."""
    names = list(left)
    message = f"compiling {', '.join(names[:workers])}" if names else "compiled"
    return message, Amount(total - len(names), total, "packages")


_inherited: list[Packages] = []
"""Of a child: what its parent compiles."""


def _prepare(packages: Packages) -> None:
    """Prepare a child: it ends with its parent, and is one of as many as there are cores."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    torch.set_num_threads(1)
    _inherited.append(packages)


def _compile(name: str) -> None:
    try:
        _inherited[-1].compile(name)
    except MmbuildError:
        raise
    except Exception as error:
        # Errors of torch cannot all be sent to the parent, which would then learn nothing.
        raise RuntimeError(f"package `{name}`: {type(error).__name__}: {error}") from error
