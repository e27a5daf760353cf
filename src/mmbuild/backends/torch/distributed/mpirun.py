"""The mpirun there is: where it lies, which kind it is, how it wants to be called."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmbuild.backends.torch.distributed.failures import RankError
from mmbuild.base.optional_packages import install_hint

OVERRIDE = "MMBUILD_MPIRUN"


@dataclass(frozen=True, slots=True)
class LauncherKind:
    """One implementation of mpirun.

    Attributes:
        name: For people.
        version: Found in what ``mpirun --version`` prints.
        flags: What it needs so that any number of ranks runs on any machine, and whoever starts them.
        environment: Settings of ours; the caller's own win.
        died: How it tells of a process that a signal ended first; groups ``pid`` and ``signal``.
    """

    name: str
    version: re.Pattern[str]
    flags: tuple[str, ...]
    died: re.Pattern[str]
    environment: Mapping[str, str] = field(default_factory=dict)


def _words(pattern: str) -> re.Pattern[str]:
    """``pattern``, however its lines are broken."""
    return re.compile(pattern.replace(" ", r"\s+"))


# Open MPI refuses root, more ranks than cores, and pins a rank to one core, unless told otherwise; its ranks spin
# while they wait unless told to yield. MPICH's hydra does none of the three, and would look for ssh.
KINDS: tuple[LauncherKind, ...] = (
    LauncherKind(
        "Open MPI",
        re.compile(r"\((Open MPI|OpenRTE)\)"),
        ("--allow-run-as-root", "--oversubscribe", "--bind-to", "none"),
        _words(r"process rank \d+ with PID (?P<pid>\d+) on node \S+ exited on signal (?P<signal>\d+)"),
        {"OMPI_MCA_mpi_yield_when_idle": "1"},
    ),
    LauncherKind(
        "MPICH",
        re.compile(r"HYDRA build details"),
        ("-launcher", "fork"),
        _words(r"PID (?P<pid>\d+) RUNNING AT \S+ = (?:EXIT CODE|KILLED BY SIGNAL): (?P<signal>\d+)"),
    ),
)


@dataclass(frozen=True, slots=True)
class Launcher:
    """An mpirun of a known kind."""

    path: Path
    kind: LauncherKind

    def argv(self, ranks: int, program: Sequence[str]) -> list[str]:
        """The command line that runs ``program`` as ``ranks`` ranks."""
        return [str(self.path), *self.kind.flags, "-n", str(ranks), *program]


# What a launcher tells each rank, by implementation: (rank, number of ranks).
_IDENTITY: tuple[tuple[str, str], ...] = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),  # Open MPI
    ("PMI_RANK", "PMI_SIZE"),  # MPICH, Intel MPI, srun with PMI
    ("PMIX_RANK", "OMPI_COMM_WORLD_SIZE"),  # srun with PMIx
)


def rank_here(environment: Mapping[str, str] = os.environ) -> int | None:
    """This process's rank as its launcher says; None where no launcher started it."""
    return next((int(environment[name]) for name, _ in _IDENTITY if name in environment), None)


def find(environment: Mapping[str, str] = os.environ) -> Launcher:
    """The mpirun to use: ``MMBUILD_MPIRUN``, else the one beside this Python, else the one on PATH.

    Beside this Python comes before PATH, because mpi4py loads the MPI library that lies there.

    Raises:
        RankError: There is none, or it is of no known kind.
    """
    path = _path(environment)
    try:
        done = subprocess.run(
            [path, "--version"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        reported = done.stdout + done.stderr
    except (OSError, subprocess.SubprocessError) as error:
        raise RankError(f"`{path} --version` failed: {error}", code="MM582", hint=_install()) from error
    kind = next((kind for kind in KINDS if kind.version.search(reported)), None)
    if kind is None:
        known = " and ".join(kind.name for kind in KINDS)
        says = (reported.strip().splitlines() or ["nothing"])[0]
        raise RankError(
            f"`{path}` is an mpirun that mmbuild does not know: it says `{says}`",
            code="MM582",
            hint=f"{known} are known; name another with {OVERRIDE}. {_install()}",
        )
    return Launcher(path, kind)


def _path(environment: Mapping[str, str]) -> Path:
    beside = str(Path(sys.executable).parent)
    named = environment.get(OVERRIDE)
    found = (
        shutil.which(named)
        if named
        else shutil.which("mpirun", path=beside) or shutil.which("mpirun", path=environment.get("PATH", ""))
    )
    if found is None:
        where = f"`{named}` ({OVERRIDE})" if named else f"mpirun, neither in {beside} nor on PATH,"
        raise RankError(
            f"an engine of several ranks is started by mpirun, and there is no {where}".rstrip(","),
            code="MM582",
            hint=_install(),
        )
    return Path(found)


def _install() -> str:
    return f"{install_hint('mpi')} brings Open MPI and mpi4py"
