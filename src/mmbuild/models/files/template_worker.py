"""Renders chat templates in a process of its own, within bounds, for every question.

A template is a program of the model's author. That it is harmless for a test question says nothing about others, so
each rendering is bounded: :data:`SECONDS` of CPU time, :data:`~mmbuild.base.sandbox.MEMORY` bytes. The process stays
for the next question; starting one for each would cost more than the rendering. ``python -m
mmbuild.models.files.template_worker`` is that process: a JSON object per line in, a JSON list per line out.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from mmbuild.base.limits import MB
from mmbuild.base.sandbox import MEMORY, OUTPUT, SECONDS, BoundsExceededError, limit_memory

_WALL_SECONDS = 10.0 * SECONDS  # allows for a busy machine, and for starting the process
_CHUNK = 1 << 16


class RenderError(Exception):
    """A template fails on these messages, or exceeds the bounds; the message says how."""


class Worker:
    """A process that renders templates, started when it is first needed. Threads take turns."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def render(
        self, text: str, messages: Sequence[Mapping[str, Any]], special_tokens: Mapping[str, Any]
    ) -> str:
        """The prompt for ``messages``, with the start of the answer.

        Raises:
            RenderError: The template fails, or exceeds the bounds.
        """
        request = {"text": text, "messages": list(messages), "special_tokens": dict(special_tokens)}
        # Special tokens of transformers may be objects.
        line = json.dumps(request, default=str).encode() + b"\n"
        with self._lock:
            try:
                rendered, failure = json.loads(self._answer(line))
            except (BoundsExceededError, ValueError) as error:
                self._stop()
                raise RenderError(str(error)) from None
        if failure is not None:
            raise RenderError(failure)
        return str(rendered)

    def _answer(self, line: bytes) -> bytes:
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(line)
            process.stdin.flush()
        except OSError:
            raise BoundsExceededError("ends the process that renders it") from None
        return _line(process)

    def _running(self) -> subprocess.Popen[bytes]:
        # A process forked from this one must not write into the same pipes.
        if self._process is None or self._owner != os.getpid() or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
                start_new_session=True,  # Ctrl-C is for the program, which closes the pipe
            )
            self._owner = os.getpid()
        return self._process

    def _stop(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                with suppress(OSError):
                    assert pipe is not None
                    pipe.close()
        self._process = None


def _line(process: subprocess.Popen[bytes]) -> bytes:
    """What the process writes up to the end of a line."""
    assert process.stdout is not None
    data = bytearray()
    while not data.endswith(b"\n"):
        ready, _, _ = select.select([process.stdout], [], [], _WALL_SECONDS)
        part = os.read(process.stdout.fileno(), _CHUNK) if ready else b""
        if not part:
            ended = not ready or process.wait() == -signal.SIGVTALRM
            problem = f"runs for more than {SECONDS} second" if ended else "ends the process that renders it"
            raise BoundsExceededError(problem)
        data += part
        if len(data) > OUTPUT:
            raise BoundsExceededError(f"produces more than {OUTPUT // MB} MB")
    return bytes(data)


WORKER = Worker()
"""That of this process."""


def main() -> None:
    """Answer requests until standard input ends."""
    from mmbuild.models.files import template_rendering

    template_rendering.prepare()
    limit_memory()
    for line in sys.stdin.buffer:
        signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
        try:
            answer = json.dumps(_rendered(json.loads(line)))
        except (MemoryError, RecursionError):
            answer = json.dumps([None, f"takes more than {MEMORY // MB} MB of memory"])
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        sys.stdout.write(answer + "\n")
        sys.stdout.flush()


def _rendered(request: Mapping[str, Any]) -> list[str | None]:
    from mmbuild.models.files import template_rendering

    prompt, failure = template_rendering.render_reported(**request)
    return [prompt, failure]


if __name__ == "__main__":
    main()
