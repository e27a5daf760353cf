"""Finds mpirun, identifies its implementation, and builds its command line."""

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
        name: Display name.
        version: Matches the output of ``mpirun --version``.
        flags: Options to run any number of ranks on any machine, for any user.
        environment: Default environment variables; the caller's take precedence.
        died: Matches its report of a process killed by a signal; groups ``pid`` and ``signal``.
    """

    name: str
    version: re.Pattern[str]
    flags: tuple[str, ...]
    died: re.Pattern[str]
    environment: Mapping[str, str] = field(default_factory=dict)


def _words(pattern: str) -> re.Pattern[str]:
    """Compile ``pattern`` so that it matches across line breaks."""
    return re.compile(pattern.replace(" ", r"\s+"))


# By default, Open MPI refuses to run as root or with more ranks than cores, pins each rank to one core, and spins
# while waiting. MPICH's hydra does none of that, but would look for ssh.
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


# Environment variables that a launcher sets for each rank, by implementation: (rank, number of ranks).
_IDENTITY: tuple[tuple[str, str], ...] = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),  # Open MPI
    ("PMI_RANK", "PMI_SIZE"),  # MPICH, Intel MPI, srun with PMI
    ("PMIX_RANK", "OMPI_COMM_WORLD_SIZE"),  # srun with PMIx
)


def rank_here(environment: Mapping[str, str] = os.environ) -> int | None:
    """The rank of this process according to its launcher; None without a launcher."""
    return next((int(environment[name]) for name, _ in _IDENTITY if name in environment), None)


def find(environment: Mapping[str, str] = os.environ) -> Launcher:
    """The mpirun to use: ``MMBUILD_MPIRUN``, else the one next to this Python, else the one on PATH.

    The one next to this Python comes before PATH, because mpi4py loads the MPI library from there.

    Raises:
        RankError: MM582, there is none, or its implementation is unknown.
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
        first_line = (reported.strip().splitlines() or ["nothing"])[0]
        raise RankError(
            f"`{path}` is an unknown implementation of mpirun: it prints `{first_line}`",
            code="MM582",
            hint=f"{known} are supported; select another mpirun with {OVERRIDE}; {_install()}",
        )
    return Launcher(path, kind)


def _path(environment: Mapping[str, str]) -> Path:
    directory = str(Path(sys.executable).parent)
    override = environment.get(OVERRIDE)
    found = (
        shutil.which(override)
        if override
        else shutil.which("mpirun", path=directory)
        or shutil.which("mpirun", path=environment.get("PATH", ""))
    )
    if found is None:
        missing = f"`{override}` ({OVERRIDE})" if override else f"mpirun, neither in {directory} nor on PATH"
        raise RankError(
            f"an engine with several ranks is started by mpirun, but there is no {missing}",
            code="MM582",
            hint=_install(),
        )
    return Path(found)


def _install() -> str:
    return f"{install_hint('mpi')} installs Open MPI and mpi4py"
