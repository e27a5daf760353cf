"""Runs the program as a child process that answers requests."""

from __future__ import annotations

import json
import subprocess
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO, Any, cast

from mmbuild.backends.tensorrt import interpreter as interpreters
from mmbuild.backends.tensorrt.errors import TensorRTError, refusal
from mmbuild.base.field_checks import any_value, mapping_of, record, word
from mmbuild.base.json_reader import JsonProblemError, parse_json
from mmbuild.base.limits import MESSAGE
from mmbuild.config.model import Interpreter

_OBJECT = mapping_of(any_value, 1_000)
_ERROR = record({"kind": word, "message": any_value}, closed=False)
_ANSWER = record({"ok": _OBJECT, "error": _ERROR}, may_lack=("ok", "error"), closed=False)

_MOST_SHOWN = 300
"""Maximum length of a foreign message in an error."""


class Child:
    """A running program. It exits when its standard input closes, also when this process dies."""

    def __init__(
        self,
        interpreter: Interpreter,
        *,
        descriptors: Sequence[int] = (),
        gpus: Sequence[str] = (),
        inherit_log: bool = False,
    ) -> None:
        """Start the program; send requests with :meth:`ask`.

        Args:
            interpreter: The Python that has TensorRT.
            descriptors: File descriptors that the child inherits.
            gpus: UUIDs of the visible GPUs; default: those of this process.
            inherit_log: Whether it shares this process's standard error; else a file, whose last line errors quote.

        Raises:
            TensorRTError: MM566, the interpreter cannot be started.
        """
        started = interpreters.start(interpreter, gpus)
        self._log: IO[bytes] | None = None if inherit_log else tempfile.TemporaryFile()  # noqa: SIM115
        try:
            self._process = subprocess.Popen(
                started.argv,
                env=dict(started.environment),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                pass_fds=tuple(descriptors),
            )
        except OSError as error:
            raise TensorRTError(
                f"cannot start `{interpreter.python}`: {error.strerror or error}",
                code="MM566",
                hint="name another Python with `mmbuild config set-tensorrt`",
            ) from error
        self.close = weakref.finalize(self, _end, self._process)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Send one request and return the program's answer.

        Raises:
            TensorRTError: It refused (:data:`errors.REFUSALS`); MM577, it has exited.
        """
        pipes = self._process
        assert pipes.stdin is not None
        assert pipes.stdout is not None
        try:
            pipes.stdin.write(json.dumps(request).encode() + b"\n")
            pipes.stdin.flush()
            line = pipes.stdout.readline()
        except (OSError, ValueError):  # a closed pipe
            line = b""
        if not line.endswith(b"\n"):
            raise self._gone()
        answer = _parse_answer(line)
        if "ok" in answer:
            result: dict[str, Any] = answer["ok"]
            return result
        reported = answer["error"]
        raise refusal(reported["kind"], " ".join(str(reported["message"]).split())[:_MOST_SHOWN])

    def _gone(self) -> TensorRTError:
        status = self._process.wait()
        how = f"was killed by signal {-status}" if status < 0 else f"exited with status {status}"
        last = self._last_line()
        return TensorRTError(
            f"the process of the visual engine {how}" + (f": {last}" if last else ""),
            code="MM577",
            hint="load the engine again and retry; if it fails again, check memory and driver (dmesg, nvidia-smi)",
        )

    def _last_line(self) -> str:
        """Last line of its standard error, shortened."""
        if self._log is None:
            return ""
        self._log.seek(0, 2)
        self._log.seek(max(0, self._log.tell() - 4096))
        lines = [line.strip() for line in self._log.read().decode(errors="replace").splitlines()]
        return next((line[:_MOST_SHOWN] for line in reversed(lines) if line), "")


def _parse_answer(line: bytes) -> dict[str, Any]:
    """Parse an answer of the program.

    Raises:
        TensorRTError: MM577, it is malformed, probably because a library printed to standard output.
    """
    try:
        answer = parse_json(line, MESSAGE)
    except JsonProblemError as error:
        problem = str(error)
    else:
        problem = _ANSWER(answer, "") or ("" if "ok" in answer or "error" in answer else "is empty")
    if problem:
        raise TensorRTError(
            f"the process of the visual engine returned an answer that {problem}: "
            f"{line[:_MOST_SHOWN].decode(errors='replace').strip()}",
            code="MM577",
            hint="check what the configured Python prints when it imports tensorrt",
        )
    return cast(dict[str, Any], answer)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Close its input and wait; it exits after the current request."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):  # unsent data
                pipe.close()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
