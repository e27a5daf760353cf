"""One rank of a command that ``launch.run_on_ranks`` started with mpirun:
``python -m mmbuild.backends.torch.distributed DIRECTORY``."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from pathlib import Path

from mmbuild.backends.torch.distributed import failures, launch, mpirun, stdio
from mmbuild.base.entries import load_entry
from mmbuild.base.output_streams import guarded_streams, output_lost_error

_PR_SET_PDEATHSIG = 1  # prctl(2)
_OTHERS_FIRST_SECONDS = 1.0


def main(directory: Path) -> int:
    """Run the call described in ``directory``; write a failure there."""
    rank = mpirun.rank_here() or 0
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # die with mpirun
    launch.register_pid(directory, rank)
    _to_log(directory / f"rank{rank}.log")
    if rank == 0:
        stdio.take(directory)
    call = json.loads((directory / launch.CALL).read_text())
    try:
        with guarded_streams() as (out, _):
            try:
                load_entry(call["target"])(**call["arguments"])
            finally:
                if out.used and rank == 0:
                    launch.note_output(directory)
            out.flush()
            if out.lost:
                raise output_lost_error(out.lost)
    except KeyboardInterrupt:
        if rank == 0:
            launch.note_interrupt(directory)
        # A regular MPI exit would wait for the other ranks, which may be in the middle of a call.
        os._exit(launch.INTERRUPTED)
    except SystemExit as ended:  # of a program that handles interrupts itself
        if rank == 0 and ended.code == launch.INTERRUPTED:
            launch.note_interrupt(directory)
        raise
    except Exception as error:
        failure = failures.describe(error, rank)
        failures.write_failure(failure, directory)
        if failure.code == "MM585":
            # Perhaps because another rank was killed, which mpirun names only if it has not lost this one too.
            time.sleep(_OTHERS_FIRST_SECONDS)
        if rank != 0:
            os._exit(1)  # a regular MPI exit would wait for the other ranks, which wait for this one
        return 1
    return 0


def _to_log(path: Path) -> None:
    """Redirect descriptors 1 and 2 to a file, so that output of libraries is not taken for answers."""
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
