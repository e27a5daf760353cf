"""Fork servers that are forked from one process with their modules imported: starting Python takes most of a short
apply's time. Tests of the fork server itself start Python, as mmbuild does."""

from __future__ import annotations

import atexit
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import IO, Any

from mmbuild.core.execution import forkserver
from mmbuild.core.execution.executor import Running
from mmbuild.core.execution.run_plan import Local, preload
from mmbuild.core.execution.worker_environment import listed_environment
from mmbuild.core.execution.worker_pool import ServerProcess, WorkerPool, start_workers
from mmbuild.steps.table import STEPS

_IMPORTED = (*forkserver._NEEDED_BY_ALL, "support.steps.trivial", "support.steps.recipe_steps")
REAL_STEPS = tuple(preload(STEPS.values()))
"""What mmbuild's own steps need: torch and transformers, which take seconds."""


class WarmLocal(Local):
    """Executor on this machine whose fork server is forked."""

    def running(self, place: Path, specs: Any, hold: int) -> AbstractContextManager[Running]:
        return starter(address())(place, preload(specs), hold)


def starter(where: str) -> Callable[..., AbstractContextManager[WorkerPool]]:
    """``start_workers`` with fork servers forked by the process at ``where``."""
    return partial(start_workers, launch=partial(launch, where))


@cache
def address(*more: str) -> str:
    """Start the process that forks, with ``more`` modules imported; return the path of its socket. It ends with this
    process."""
    path = f"{tempfile.mkdtemp()}/socket"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(path)
    listener.listen()
    modules = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    process = subprocess.Popen(
        [sys.executable, "-c", f"from {__name__} import serve; serve({listener.fileno()}, {more})"],
        stdin=subprocess.PIPE,
        pass_fds=[listener.fileno()],
        env={**os.environ, "PYTHONPATH": modules},
    )
    listener.close()
    atexit.register(process.communicate)
    return path


@dataclass
class _Forked:
    """What :class:`~mmbuild.core.execution.worker_pool.WorkerPool` uses of a ``Popen``."""

    pid: int
    stdin: IO[bytes]
    connection: socket.socket
    status: int | None = None

    def wait(self) -> int:
        if self.status is None:
            with self.connection:
                self.status = int(self.connection.recv(100))
        return self.status


def launch(where: str, server: ServerProcess) -> Any:
    """Have a fork server forked by the process at ``where``."""
    reader, writer = os.pipe()
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.connect(where)
    os.umask(mask := os.umask(0))
    request = {
        **asdict(server),
        "environment": listed_environment(),
        "directory": os.getcwd(),
        "mask": mask,
    }
    socket.send_fds(connection, [json.dumps(request).encode()], [reader, server.events, server.hold, 2])
    os.close(reader)
    return _Forked(int(connection.recv(100)), os.fdopen(writer, "wb"), connection)


def serve(descriptor: int, more: Sequence[str]) -> None:
    """Fork a server for each request until standard input ends."""
    listener = socket.socket(fileno=descriptor)
    forkserver._import_all([*_IMPORTED, *more])
    gc.freeze()
    wake = forkserver._wake_on_child()
    started: dict[int, socket.socket] = {}
    while True:
        ready, _, _ = select.select([0, listener, wake], [], [])
        if wake in ready:
            os.read(wake, 4096)
            _report_ended(started)
        if listener in ready:
            connection, _ = listener.accept()
            text, descriptors, _, _ = socket.recv_fds(connection, 1 << 20, 4)
            pid = os.fork()
            if pid == 0:
                _become_server(json.loads(text), descriptors, [listener, connection, *started.values()])
            for inherited in descriptors:
                os.close(inherited)
            started[pid] = connection
            connection.send(str(pid).encode())
        if 0 in ready:
            return


def _report_ended(started: dict[int, socket.socket]) -> None:
    while started:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        with started.pop(pid) as connection, suppress(BrokenPipeError):
            connection.send(str(os.waitstatus_to_exitcode(status)).encode())


def _become_server(request: dict[str, Any], descriptors: list[int], others: list[socket.socket]) -> None:
    """Be as the process that mmbuild starts. Never returns."""
    status = 1
    try:
        commands, events, hold, errors = descriptors
        signal.set_wakeup_fd(-1)
        os.setsid()
        for other in others:
            other.close()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for descriptor, number in ((commands, 0), (nowhere, 1), (errors, 2)):
            os.dup2(descriptor, number)
            os.close(descriptor)
        for descriptor in (events, hold):
            os.set_inheritable(descriptor, True)
        os.environ.clear()
        os.environ.update(request["environment"])
        os.chdir(request["directory"])
        os.umask(request["mask"])
        sys.path[:] = request["modules"]
        forkserver.main(events, request["preload"])
        status = 0
    except BaseException:  # as Python would print it
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)
