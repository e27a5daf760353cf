"""Complete terminal output of a command as one text, for comparison with an inline snapshot."""

from __future__ import annotations

import re
from pathlib import Path

from support.projects.demo_project import Project

_VOLATILE = (
    (r"\b[0-9a-f]{64}\b", "KEY"),
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d( on \S+)?", "TIME"),
    (r" +\d+\.\d s\b", " N s"),
    (r"\d+(\.\d)? (kB|MB)\b", r"N \2"),
    # Of a whole plan: it depends on the number of cores.
    (r"takes about \d+ (s|min) \(", "takes about N s ("),
)


def screen(status: int, stdout: str, stderr: str, root: Path) -> str:
    """Return exit status, standard output and standard error under a heading each.

    Whatever differs between two runs is replaced: ``root`` by ``ROOT``, keys and digests by ``KEY``, dates (with the
    host) by ``TIME``, and the numbers of seconds and sizes by ``N``.
    """
    text = f"exit status {status}\n"
    for name, stream in (("stdout", stdout), ("stderr", stderr)):
        text += f"--- {name}\n{stream}" if stream else ""
    return without_volatile(text.replace(str(root), "ROOT"))


def without_volatile(text: str) -> str:
    """``text`` with keys, dates and numbers of seconds and sizes replaced, as in :func:`screen`."""
    for pattern, name in _VOLATILE:
        text = re.sub(pattern, name, text)
    return text


def run_screen(project: Project, *arguments: str, status: int = 0, **environment: str) -> str:
    """Run mmbuild in ``project`` and return its :func:`screen`."""
    done = project.run(*arguments, status=status, **environment)
    return screen(done.returncode, done.stdout, done.stderr, project.root)
