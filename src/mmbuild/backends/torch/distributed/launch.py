"""The parent of the ranks: starts them, waits, and raises the first failure."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from mmbuild.backends.torch.distributed import failures, mpirun, stdio
from mmbuild.backends.torch.distributed.failures import RankError
from mmbuild.backends.torch.distributed.mpirun import Launcher
from mmbuild.base.entries import load_entry
from mmbuild.base.optional_packages import install_hint, require
from mmbuild.base.output_streams import note_output_used

CALL, LOG = "call.json", "mpirun.log"
INTERRUPTED = 130  # exit status of a rank that was interrupted
_INTERRUPT, _OUTPUT = "interrupted", "printed"
# Time for mpirun to stop the other ranks after a failure, time to exit after SIGTERM, and polling interval.
_GRACE_SECONDS, _TERMINATE_SECONDS, _POLL_SECONDS = 15.0, 5.0, 0.5
_BACKTRACE = re.compile(r"\[[^\]]+:\d+\] ")  # the host and process id before each line
_QUOTED = 300  # characters of a log in a message


def run_on_ranks(
    ranks: int, target: str, arguments: Mapping[str, Any], *, interrupts: Collection[signal.Signals] = ()
) -> None:
    """Call ``target`` (``module:function``) with ``arguments`` in each of ``ranks`` ranks.

    With one rank, or in a process that mpirun started, the call is direct. In ranks other than 0 the function runs up
    to :meth:`Engine.load` and executes rank 0's commands from there on.

    Args:
        ranks: Number of ranks that the engine is built for.
        target: An importable function; its result is dropped.
        arguments: Its keyword arguments, JSON-serializable.
        interrupts: Signals to this process that rank 0 gets as SIGINT, for programs that then end by themselves. All
            others act on this process alone, and all ranks end with it. Needs the main thread.

    Raises:
        MissingPackageError: MM230, torch or transformers is not installed.
        RankError: There is no mpirun or no mpi4py, or a rank failed (with the code of that failure).
        KeyboardInterrupt: One of ``interrupts`` came before rank 0 handled it.
    """
    require("torch", "transformers", needed_by="running an engine")
    if ranks == 1 or mpirun.rank_here() is not None:
        load_entry(target)(**arguments)
        return
    if importlib.util.find_spec("mpi4py") is None:
        raise RankError(
            f"the engine is split over {ranks} ranks, which need mpi4py, but this Python has none",
            code="MM583",
            hint=install_hint("mpi"),
        )
    launcher = mpirun.find()
    directory = _private_directory()
    (directory / CALL).write_text(json.dumps({"target": target, "arguments": dict(arguments)}))
    with _as_interrupts(interrupts, directory) as received:
        status = _run(launcher, ranks, directory)
    if (directory / _OUTPUT).exists():
        note_output_used()
    if (directory / _INTERRUPT).exists():
        # Other ranks may have written that they lost rank 0, and mpirun may have returned their status.
        shutil.rmtree(directory, ignore_errors=True)
        raise KeyboardInterrupt
    # A rank 0 that was interrupted while it loaded ends without waiting for the others, which mpirun reports.
    ended = status == 0 or (bool(received) and _death(launcher, directory) is None)
    if not ended or failures.first_failure(directory) is not None:
        raise _failure(launcher, directory, status)
    shutil.rmtree(directory, ignore_errors=True)


def note_interrupt(directory: Path) -> None:
    """In rank 0: write for the parent that it ends because of an interrupt."""
    (directory / _INTERRUPT).touch()


def note_output(directory: Path) -> None:
    """In rank 0: write for the parent that it printed to the parent's standard output."""
    (directory / _OUTPUT).touch()


@contextlib.contextmanager
def _as_interrupts(signals: Collection[signal.Signals], directory: Path) -> Iterator[list[int]]:
    """Pass ``signals`` on to rank 0 as SIGINT; yields the list of those received."""
    received: list[int] = []

    def pass_on(number: int, _: object) -> None:
        received.append(number)
        leader = next((pid for pid, rank in ranks_by_pid(directory).items() if rank == 0), None)
        if leader is None or not _is_rank(leader, directory):
            raise KeyboardInterrupt
        os.kill(leader, signal.SIGINT)

    before = {number: signal.signal(number, pass_on) for number in signals}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _private_directory() -> Path:
    """A directory that only this user can read; logs of failed runs stay there."""
    default = tempfile.gettempdir()
    parent = default if stdio.path_fits(default + "/mmbuild-ranks-" + "x" * 8) else "/tmp"
    return Path(tempfile.mkdtemp(prefix="mmbuild-ranks-", dir=parent))


def environment_for(launcher: Launcher, ranks: int, base: Mapping[str, str]) -> dict[str, str]:
    """Environment of the ranks: ``base``, defaults of the launcher, and their share of the threads."""
    threads = base.get("OMP_NUM_THREADS", "")
    cores = int(threads) if threads.isdigit() else len(os.sched_getaffinity(0))
    return {**launcher.kind.environment, **base, "OMP_NUM_THREADS": str(max(1, cores // ranks))}


def _run(launcher: Launcher, ranks: int, directory: Path) -> int:
    """Run mpirun; returns its exit status."""
    program = [sys.executable, "-m", "mmbuild.backends.torch.distributed", str(directory)]
    offer = stdio.Offer(directory)
    try:
        with open(directory / LOG, "wb") as log:
            process = subprocess.Popen(
                launcher.argv(ranks, program),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**environment_for(launcher, ranks, os.environ), failures.PLACE: str(directory)},
                start_new_session=True,  # this process handles Ctrl-C
            )
            try:
                _wait(process, directory)
            finally:
                _end(process, directory)
            return process.returncode
    finally:
        offer.close()


def _wait(process: subprocess.Popen[bytes], directory: Path) -> None:
    """Wait until mpirun exits, or until the grace period after a failure is over."""
    failed_at: float | None = None
    while failed_at is None or time.monotonic() - failed_at < _GRACE_SECONDS:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_POLL_SECONDS)
            return
        if failed_at is None and failures.first_failure(directory) is not None:
            failed_at = time.monotonic()


def _end(process: subprocess.Popen[bytes], directory: Path) -> None:
    """Make sure that mpirun and all ranks have ended."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_TERMINATE_SECONDS)
    for pid in ranks_by_pid(directory):
        if _is_rank(pid, directory):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def register_pid(directory: Path, rank: int) -> None:
    """In a rank: write its process id for the parent."""
    (directory / f"rank{rank}.pid").write_text(str(os.getpid()))


def ranks_by_pid(directory: Path) -> dict[int, int]:
    """Map process ids to ranks, for the ranks that have started."""
    return {
        int(path.read_text()): int(path.stem.removeprefix("rank"))
        for path in directory.glob("rank*.pid")
        if path.stat().st_size
    }


def _is_rank(pid: int, directory: Path) -> bool:
    """Whether the process is still the registered rank; the id may have been reused."""
    try:
        return os.fsencode(directory) in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def _failure(launcher: Launcher, directory: Path, status: int) -> Exception:
    """The root cause: a death by signal that mpirun saw first, else the earliest failure, else mpirun's message."""
    log = directory / LOG
    death = _death(launcher, directory)
    if death is not None:
        rank, number = death
        # A library that aborts says why first; SIGKILL comes without a word of the rank's own.
        quoted = "" if number == signal.SIGKILL else _last_line(directory / f"rank{rank}.log")
        return RankError(
            f"rank {rank} was killed by {_signal_name(number)}, and the other ranks were stopped"
            + (f"; its last output: {quoted}" if quoted else ""),
            code="MM580",
            hint=f"SIGKILL often means that memory ran out (see `dmesg`); logs of the ranks: {directory}",
        )
    failure = failures.first_failure(directory)
    if failure is not None:
        if failure.code != "MM585":
            shutil.rmtree(directory, ignore_errors=True)
            return failure.error()
        (directory / f"rank{failure.rank}.traceback").write_text(failure.trace)
        return RankError(
            failure.message, code="MM585", hint=f"see traceback and logs of the ranks: {directory}"
        )
    return RankError(
        f"`{launcher.path}` ({launcher.kind.name}) exited with status {status}, and no rank reported a failure; "
        f"its last output: {_last_line(log) or 'nothing'}",
        code="MM584",
        hint=f"its output is in {log}; try `{launcher.path} -n 2 hostname`",
    )


def _death(launcher: Launcher, directory: Path) -> tuple[int, int] | None:
    """Rank and signal of the first rank that a signal killed, as mpirun reports it; None if none was."""
    output = (directory / LOG).read_text(encoding="utf-8", errors="replace")
    died = launcher.kind.died.search(output)
    rank = ranks_by_pid(directory).get(int(died["pid"])) if died else None
    return None if died is None or rank is None else (rank, int(died["signal"]))


def _last_line(log: Path) -> str:
    """The last line of a log that is not empty and not from Open MPI's backtrace; empty if there is none."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return ""
    return next(
        (line.strip() for line in reversed(lines) if line.strip() and not _BACKTRACE.match(line)), ""
    )[:_QUOTED]


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
