"""Passes the parent's stdin, stdout and stderr descriptors to rank 0.

Output that mpirun forwards is mixed with its own messages, and goes through a pipe even if the parent has a terminal.
The open connection also shows rank 0 that the parent is alive.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
from pathlib import Path

_SOCKET = "terminal"


def path_fits(directory: str) -> bool:
    """Whether a socket in ``directory`` is possible: its address is limited to 108 bytes on Linux."""
    return len(os.fsencode(directory)) + len(_SOCKET) < 100


class Offer:
    """The parent's side: passes its standard streams to the first client that connects."""

    def __init__(self, directory: Path) -> None:
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(directory / _SOCKET))
        self._listening.listen(1)
        self._connection: socket.socket | None = None
        threading.Thread(target=self._give, daemon=True).start()

    def _give(self) -> None:
        with contextlib.suppress(OSError):  # closed before a client connected
            self._connection, _ = self._listening.accept()
            sys.stdout.flush()
            sys.stderr.flush()
            given = [_number(sys.stdin, 0), _number(sys.stdout, 1), _number(sys.stderr, 2)]
            socket.send_fds(self._connection, [b"!"], given)

    def close(self) -> None:
        """Stop listening. The client keeps the descriptors and sees that the parent is done."""
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        if self._connection is not None:
            self._connection.close()


def _number(stream: object, default: int) -> int:
    """The file descriptor of ``stream``; ``default`` if it has none (a stream in memory)."""
    try:
        return int(stream.fileno())  # type: ignore[attr-defined]
    except (OSError, AttributeError, ValueError):
        return default


def take(directory: Path) -> None:
    """In rank 0: redirect stdin, stdout, and Python's stderr, to those of the parent.

    Output of libraries to descriptor 2 is not redirected. Exits this process when the parent dies.
    """
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(directory / _SOCKET))
    _, (given, out, err), _, _ = socket.recv_fds(connection, 1, 3)
    for descriptor, number in ((given, 0), (out, 1)):
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stderr = open(err, "w", encoding=sys.stderr.encoding, errors="backslashreplace", buffering=1)  # noqa: SIM115 (for good)
    threading.Thread(target=_end_with, args=(connection,), daemon=True).start()


def _end_with(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.recv(1)
    os._exit(1)
