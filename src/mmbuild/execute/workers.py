"""The orchestrator's end of the fork server: start jobs, receive messages."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmbuild.errors import MmbuildError
from mmbuild.execute.environment import listed_environment
from mmbuild.execute.job import Job, write_job


@dataclass(slots=True)
class Workers:
    """A fork server with its pipes. Made by :func:`start_workers`."""

    staging: Path
    process: subprocess.Popen[bytes]
    events: int
    _selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    _pending: bytes = b""

    def start(self, job: Job) -> Path:
        """Fork a worker for ``job``; returns its directory."""
        directory = self.staging / job.name
        directory.mkdir()
        write_job(directory, job)
        self._ask(f"run {directory}")
        return directory

    def messages(self, timeout: float | None) -> list[dict[str, Any]]:
        """What the workers said; waits up to ``timeout`` seconds for something.

        Raises:
            MmbuildError: MM316 the fork server died.
        """
        if not self._selector.select(timeout):
            return []
        chunk = os.read(self.events, 1 << 16)
        if not chunk:
            raise MmbuildError(
                f"the process that starts workers ended with status {self.process.wait()}",
                code="MM316",
                hint="if the machine ran out of memory, use fewer `--jobs`; apply again to go on",
            )
        *lines, self._pending = (self._pending + chunk).split(b"\n")
        return [json.loads(line) for line in lines]

    def _ask(self, request: str) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(os.fsencode(request) + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return  # messages() sees the end of the other pipe and tells why


@contextmanager
def start_workers(staging: Path, preload: Iterable[str], hold: int) -> Iterator[Workers]:
    """Start a fork server; on leaving, it and all workers are ended.

    Args:
        staging: Existing directory for the jobs.
        preload: Modules to import before forking.
        hold: Descriptor that shall stay open until the last worker has ended (the lock on the store).
    """
    reader, writer = os.pipe()
    environment = listed_environment()
    environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
    process = subprocess.Popen(
        [sys.executable, "-m", "mmbuild.execute.forkserver", str(writer), *preload],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=None,
        env=environment,
        pass_fds=(writer, hold),
        start_new_session=True,
    )
    os.close(writer)
    workers = Workers(staging, process, reader)
    workers._selector.register(reader, selectors.EVENT_READ)
    try:
        yield workers
    finally:
        assert process.stdin is not None
        with suppress(BrokenPipeError):
            process.stdin.close()
        process.wait()
        workers._selector.close()
        os.close(reader)
