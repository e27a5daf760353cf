"""Ranks under a real mpirun: their results, and the reports when one fails."""

import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from torch import nn

from mmbuild.backends.torch.distributed import collectives, mpirun
from mmbuild.backends.torch.distributed.failures import RankError
from mmbuild.backends.torch.distributed.launch import run_on_ranks
from mmbuild.backends.torch.export import WithWeights, compile_package, export
from mmbuild.base.output_streams import guarded_streams
from support import TESTS
from support.engines.build import TARGET
from support.errors import refused
from support.serving.process import ends, watched

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def place(monkeypatch, tmp_path_factory):
    """Ranks find the programs, and what a failure leaves stays in this directory: pytest's own is too long a name
    for a socket when tests run in several processes."""
    tmp_path_factory.getbasetemp()  # or the first tmp_path would put it within this directory, which does not last
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    with tempfile.TemporaryDirectory(prefix="mm-", dir="/tmp") as directory:
        monkeypatch.setattr("tempfile.tempdir", directory)
        yield Path(directory)


def left_over(directory):
    return [path for path in directory.iterdir() if path.name.startswith("mmbuild-ranks-")]


def test_every_call_of_rank_0_is_done_by_every_rank(capfd, place):
    with guarded_streams() as (out, _):
        run_on_ranks(2, "support.engines.rank_programs:tally", {"steps": 3})
    assert out.used  # by rank 0
    reported = capfd.readouterr()
    # Rank 1 counts twice: every number is three times what rank 0 alone would have.
    assert json.loads(reported.out) == [
        [[27.0], [30.0]],
        [[12.0], [15.0]],
        *([[12.0 + 3 * turn], [15.0 + 30 * turn]] for turn in (1, 2, 3)),
        [[105.0], [108.0], [27.0]],
        "MM511",
        [[15.0]],
    ]
    assert reported.err == ""
    assert left_over(place) == []


def test_sums_and_gathered_vocabularies_are_those_of_all_ranks(capfd):
    run_on_ranks(2, "support.engines.rank_programs:reductions", {"count": 30})
    # float32 sums of two are exact in any order; float16 and bfloat16 are rounded once on both sides.
    assert json.loads(capfd.readouterr().out) == [0.0, 0.0]


class Half(nn.Module):
    """One rank's half of a small network."""

    def __init__(self):
        super().__init__()
        shapes = {"up": (32, 32), "down": (32, 32), "head": (25, 32)}
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.empty(shape), requires_grad=False))

    def forward(self, x):
        x = x + collectives.all_reduce(torch.relu(x @ self.up.T) @ self.down.T, 2)
        return collectives.gather_vocabulary(x @ self.head.T, 2)


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """:class:`Half`, compiled before :func:`place`: what Inductor keeps is in the usual directory for it."""
    half, batch = Half(), torch.export.Dim("batch", min=1, max=4)
    names = ["up", "down", "head"]
    inputs = [torch.zeros(2, 32), *(getattr(half, name) for name in names)]
    program = export(WithWeights(half, "forward", names), inputs, [{0: batch}, None, None, None], "cpu")
    path = tmp_path_factory.mktemp("package") / "half.pt2"
    with collectives.compiling(2):
        compile_package(program, path, TARGET)
    return path


def test_a_compiled_package_gives_what_the_unsplit_network_gives(package, capfd):
    run_on_ranks(2, "support.engines.rank_programs:packaged", {"path": str(package)})
    assert max(json.loads(capfd.readouterr().out.splitlines()[-1])) < 1e-5


def test_one_rank_has_no_collective():
    x = torch.randn(3, 5)
    assert collectives.all_reduce(x, 1) is x
    assert collectives.gather_vocabulary(x, 1) is x


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_cannot_load_is_named_and_all_end(rank, capfd, place):
    how = {"rank": rank, "how": "told"}
    with guarded_streams() as (out, _):
        error = refused(RankError, "MM504", run_on_ranks, 2, "support.engines.rank_programs:failing", how)
    assert not out.used
    assert error.message == ("rank 1: " if rank else "") + "the weights are damaged"
    assert capfd.readouterr() == ("", "")
    assert left_over(place) == []


def test_a_bug_in_a_rank_is_reported_with_its_traceback(place):
    error = refused(
        RankError,
        "MM585",
        run_on_ranks,
        2,
        "support.engines.rank_programs:failing",
        {"rank": 1, "how": "bug"},
    )
    assert "rank 1 failed: KeyError" in error.message
    (logs,) = left_over(place)
    assert str(logs) in error.hint
    assert "KeyError: 'lost'" in "".join(path.read_text() for path in logs.glob("*.traceback"))


def test_a_failed_follower_is_reported_as_the_cause():
    error = refused(
        RankError, "MM585", run_on_ranks, 2, "support.engines.rank_programs:failing_later", {"rank": 1}
    )
    assert error.message == "rank 1 failed: OutOfMemoryError: no memory for the step"


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_killed_while_decoding_ends_all_and_is_named(rank, monkeypatch, place):
    monkeypatch.setenv("MMBUILD_FAULT", f"rank{rank}.decode")
    error = refused(RankError, "MM580", run_on_ranks, 2, "support.engines.rank_programs:tally", {"steps": 1})
    assert f"rank {rank} was killed by SIGKILL" in error.message
    (logs,) = left_over(place)
    pids = [int(path.read_text()) for path in logs.glob("*.pid")]
    assert len(pids) == 2
    assert all(ends(watch) for watch in map(watched, pids))


def test_the_last_output_of_a_rank_that_aborted_is_quoted():
    error = refused(RankError, "MM580", run_on_ranks, 2, "support.engines.rank_programs:aborting", {})
    assert error.message == (
        "rank 0 was killed by SIGABRT, and the other ranks were stopped; "
        "its last output: terminate called after throwing an instance of 'gloo::IoException'"
    )


def test_a_wrong_number_of_ranks_is_reported_once_and_all_ranks_end():
    launcher = mpirun.find()
    program = "from support.engines.rank_programs import start; start(2)"
    done = subprocess.run(
        launcher.argv(3, [sys.executable, "-c", program]),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("the engine is split over 2 ranks, but 3 were started") == 1


def test_a_single_process_gets_a_hint_how_to_start_it():
    program = "from support.engines.rank_programs import start; start(2)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1
    assert "the engine is split over 2 ranks, but 1 was started" in done.stderr


def test_without_mpi4py_the_extra_is_named(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "mpi4py" else found(name))
    error = refused(RankError, "MM583", run_on_ranks, 2, "support.engines.rank_programs:tally", {"steps": 1})
    assert "[mpi]'" in error.hint


def test_a_launcher_that_fails_is_quoted(tmp_path, monkeypatch):
    path = tmp_path / "mpirun"
    path.write_text(
        "#!/bin/sh\n[ $1 = --version ] && echo '(Open MPI)' && exit 0\necho no slots available\nexit 3\n"
    )
    path.chmod(0o755)
    monkeypatch.setenv(mpirun.OVERRIDE, str(path))
    error = refused(RankError, "MM584", run_on_ranks, 2, "support.engines.rank_programs:tally", {"steps": 1})
    assert "status 3" in error.message
    assert "no slots available" in error.message


def test_ranks_do_not_outlive_a_killed_parent():
    program = (
        "from mmbuild.backends.torch.distributed.launch import run_on_ranks; "
        "run_on_ranks(2, 'support.engines.rank_programs:outlived', {})"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        watches = [watched(pid) for pid in json.loads(parent.stdout.readline())]
        parent.kill()
    assert None not in watches
    assert all(ends(watch) for watch in watches)
