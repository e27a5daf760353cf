"""A short foreign process that is asked something: its output, or nothing when it hangs."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess

from mmbuild.backends.environments.launch import Launch


def run(started: Launch, directory: str, seconds: float) -> subprocess.CompletedProcess[str] | None:
    """Run ``started`` in ``directory``; None where it took longer than ``seconds`` and was killed.

    Everything that it started is killed with it, so that no grandchild keeps its output open.

    Raises:
        OSError: It cannot be started.
    """
    process = subprocess.Popen(
        started.argv,
        cwd=directory,
        env=dict(started.environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(timeout=seconds)
    except BaseException as error:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            return None
        raise
    return subprocess.CompletedProcess(started.argv, process.returncode, stdout, stderr)
