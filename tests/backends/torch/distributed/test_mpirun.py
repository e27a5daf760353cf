"""Which mpirun is taken, and how each kind is called."""

import os
import sys
from pathlib import Path

import pytest

from mmbuild.backends.torch.distributed import mpirun as launchers
from mmbuild.backends.torch.distributed.failures import RankError
from mmbuild.backends.torch.distributed.launch import environment_for
from mmbuild.backends.torch.distributed.mpirun import KINDS, Launcher
from support.errors import refused

OPEN_MPI, MPICH = KINDS

# First lines that `mpirun --version` really prints.
VERSIONS = {
    "mpirun (Open MPI) 5.0.11": OPEN_MPI,
    "mpirun (Open MPI) 4.1.6": OPEN_MPI,
    "HYDRA build details:\\n    Version:                                 5.0.2": MPICH,
}


def mpirun(directory: Path, says: str) -> Path:
    """A program that says it is a version of mpirun."""
    directory.mkdir(exist_ok=True)
    path = directory / "mpirun"
    path.write_text(f"#!/bin/sh\nprintf '{says}\\n'\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(("says", "kind"), VERSIONS.items())
def test_the_kind_is_what_the_launcher_says_it_is(tmp_path, says, kind):
    path = mpirun(tmp_path, says)
    assert launchers.find({launchers.OVERRIDE: str(path)}) == Launcher(path, kind)


def test_the_mpirun_next_to_python_comes_before_path(tmp_path, monkeypatch):
    beside = mpirun(tmp_path / "bin", "mpirun (Open MPI) 5.0.11")
    other = mpirun(tmp_path / "other", "HYDRA build details:")
    monkeypatch.setattr(sys, "executable", str(beside.parent / "python"))
    assert launchers.find({"PATH": str(other.parent)}).path == beside
    beside.unlink()
    assert launchers.find({"PATH": str(other.parent)}).path == other


def test_without_mpirun_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    error = refused(RankError, "MM582", launchers.find, {"PATH": str(tmp_path)})
    assert "mpirun" in error.message
    assert "[mpi]'" in error.hint


def test_a_missing_named_launcher_is_reported_by_name():
    assert (
        "/nowhere/mpirun"
        in refused(RankError, "MM582", launchers.find, {launchers.OVERRIDE: "/nowhere/mpirun"}).message
    )


def test_an_unknown_mpirun_is_refused_with_its_own_words(tmp_path):
    path = mpirun(tmp_path, "Slurm-like starter 1.0")
    error = refused(RankError, "MM582", launchers.find, {launchers.OVERRIDE: str(path)})
    assert "Slurm-like starter 1.0" in error.message


def test_open_mpi_gets_the_options_for_containers():
    argv = Launcher(Path("/usr/bin/mpirun"), OPEN_MPI).argv(4, ["python", "x.py"])
    assert argv[0] == "/usr/bin/mpirun"
    assert {"--allow-run-as-root", "--oversubscribe"} < set(argv)
    assert argv[-4:] == ["-n", "4", "python", "x.py"]


def test_ranks_share_the_threads_and_keep_what_the_caller_set():
    launcher = Launcher(Path("mpirun"), OPEN_MPI)
    given = {"OMP_NUM_THREADS": "8", "OMPI_MCA_mpi_yield_when_idle": "0", "HOME": "/home/someone"}
    environment = environment_for(launcher, 2, given)
    assert environment["OMP_NUM_THREADS"] == "4"
    assert environment["OMPI_MCA_mpi_yield_when_idle"] == "0"
    assert environment["HOME"] == "/home/someone"
    assert environment_for(launcher, 64, {"OMP_NUM_THREADS": "8"})["OMP_NUM_THREADS"] == "1"
    assert environment_for(launcher, 1, {})["OMP_NUM_THREADS"] == str(len(os.sched_getaffinity(0)))


@pytest.mark.parametrize(
    ("environment", "rank"),
    [
        ({"OMPI_COMM_WORLD_RANK": "3"}, 3),
        ({"PMI_RANK": "0"}, 0),
        ({"PMIX_RANK": "1"}, 1),
        ({"PATH": "/bin"}, None),
    ],
)
def test_a_process_knows_whether_a_launcher_started_it(environment, rank):
    assert launchers.rank_here(environment) == rank


# What both print when a signal ends a process first; recorded from Open MPI 5.0.11 and MPICH 5.0.2.
DEATHS = [
    (
        OPEN_MPI,
        "prterun noticed that process rank 1 with PID 2214 on node box exited on\nsignal 9 (Killed).",
    ),
    (
        MPICH,
        "=   BAD TERMINATION OF ONE OF YOUR APPLICATION PROCESSES\n=   PID 2214 RUNNING AT box\n=   EXIT CODE: 9\n",
    ),
]


@pytest.mark.parametrize(("kind", "said"), DEATHS)
def test_a_death_is_read_from_the_launcher_s_output(kind, said):
    found = kind.died.search(said)
    assert found is not None
    assert (found["pid"], found["signal"]) == ("2214", "9")
