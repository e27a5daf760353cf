"""Completion in a shell, as `mmbuild --help` says to set it up."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = Path(sys.executable).with_name("mmbuild")
ENVIRONMENT = {**os.environ, "PATH": f"{COMMAND.parent}{os.pathsep}{os.environ['PATH']}"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_each_shell_is_printed(shell: str) -> None:
    done = subprocess.run(
        ["mmbuild"],
        env={**ENVIRONMENT, "_MMBUILD_COMPLETE": f"{shell}_source"},
        capture_output=True,
        check=False,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert f"_MMBUILD_COMPLETE={shell}_complete" in done.stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_commands() -> None:
    """Bash's own function is called as bash calls it when somebody presses the tabulator."""
    script = """
        eval "$(_MMBUILD_COMPLETE=bash_source mmbuild)"
        COMP_WORDS=(mmbuild pl) COMP_CWORD=1
        _mmbuild_completion mmbuild pl mmbuild
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    done = subprocess.run(
        ["bash", "-c", script], env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("plan\n", "")
