"""Running one command: real processes that succeed, fail, are killed, or print known lines."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from mmbuild.backends.environments.launch import Launch
from mmbuild.backends.tensorrt_llm.runner.command import CommandError, run_command

VERSION = "0.9.0"


def python(code: str) -> Launch:
    return Launch((sys.executable, "-c", code), {"PATH": os.environ["PATH"], "MARK": "from outside"})


def run(code: str, cwd: Path) -> tuple[list[str], tuple[str, ...]]:
    lines: list[str] = []
    return lines, run_command("convert", python(code), cwd, VERSION, lines.append)


def failing(code: str, cwd: Path) -> CommandError:
    with pytest.raises(CommandError) as caught:
        run(code, cwd)
    return caught.value


def test_output_is_passed_on_line_by_line_and_the_environment_is_exact(tmp_path: Path) -> None:
    code = "import os,sys; print('one', flush=True); print(os.environ['MARK'], file=sys.stderr); print(os.getcwd())"
    reported, lines = run(code, tmp_path)
    assert lines == ("one", "from outside", str(tmp_path))
    assert reported == list(lines)


def test_an_unknown_failure_shows_the_command_and_its_last_lines(tmp_path: Path) -> None:
    error = failing("print('before'); raise SystemExit('a reason')", tmp_path)
    assert error.code == "MM700"
    assert "convert exited with status 1" in error.message
    assert "| before" in error.message
    assert "| a reason" in error.message


def test_a_known_line_explains_the_failure(tmp_path: Path) -> None:
    error = failing("raise SystemExit('Engine world size (2) != Runtime world size (1)')", tmp_path)
    assert error.code == "MM670"
    assert error.hint


def test_a_silent_known_line_fails_a_command_that_exits_with_0(tmp_path: Path) -> None:
    line = "Cannot find engines/rank1.safetensors. Use dummy model weights."
    assert failing(f"print({line!r})", tmp_path).code == "MM676"


def test_a_killed_command_reports_the_signal(tmp_path: Path) -> None:
    error = failing(f"import os; os.kill(os.getpid(), {signal.SIGKILL})", tmp_path)
    assert f"killed by signal {int(signal.SIGKILL)}" in error.message


def test_a_missing_program_is_reported(tmp_path: Path) -> None:
    with pytest.raises(CommandError) as caught:
        run_command("build_llm", Launch(("trtllm-build",), {"PATH": str(tmp_path)}), tmp_path, VERSION, print)
    assert caught.value.code == "MM700"
    assert "trtllm-build" in caught.value.message


def test_output_that_is_not_text_is_accepted(tmp_path: Path) -> None:
    _, lines = run(r"import sys; sys.stdout.buffer.write(b'a\xff\n')", tmp_path)
    assert len(lines) == 1
