"""Environments made of small files: a Python with chosen distributions, a docker that runs on this host."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

# Unlike a real interpreter, it sees only the distributions next to it.
_PYTHON = """\
#!/bin/sh
exec "{real}" -S -c '
import sys
code, sys.path[:0], sys.argv = sys.argv[3], [sys.argv[1]], ["-c", *sys.argv[4:]]
exec(code)
' "{site}" "$@"
"""
# The engine's own options end at the image, whose name has a colon and no slash, comma or equals sign.
_ENGINE = """\
#!{real}
import json, os, re, sys
with open({record!r}, "w") as file:
    json.dump({{"argv": sys.argv, "environment": dict(os.environ)}}, file)
place = next(i for i, word in enumerate(sys.argv) if re.fullmatch(r"[a-z]+:[a-z0-9.]+", word))
if sys.argv[place].startswith("missing:"):
    print("no such image", file=sys.stderr)
    sys.exit(125)
given = {{}}
for flag, word in zip(sys.argv, sys.argv[1:place]):
    if flag == "-e":
        name, equals, value = word.partition("=")
        given[name] = value if equals else os.environ[name]
os.chdir(sys.argv[sys.argv.index("-w") + 1])
print("banner of the image", flush=True)
command = sys.argv[place + 1:]
if command[0] == "python3":
    command[0] = {inside!r}
os.execve(command[0], command, {{"PATH": os.defpath, **given}})
"""


def make_python(directory: Path, distributions: Mapping[str, str]) -> Path:
    """A ``bin/python`` below ``directory`` that finds ``distributions`` (name -> version) and nothing else."""
    site = directory / "site"
    for name, version in distributions.items():
        info = site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", "utf-8")
    return make_program(directory / "bin" / "python", _PYTHON.format(real=sys.executable, site=site))


def make_engine(directory: Path, name: str, inside: Path) -> Path:
    """A program ``name`` in ``directory`` that takes what docker and podman take, and runs the command on this host.

    ``python3`` in it is ``inside``. Its arguments go to ``<name>.json`` next to it.
    """
    record = str(directory / f"{name}.json")
    text = _ENGINE.format(real=sys.executable, record=record, inside=str(inside))
    return make_program(directory / name, text)


def recorded(engine: Path) -> tuple[list[str], dict[str, str]]:
    """Arguments and environment that an engine of :func:`make_engine` was started with."""
    data = json.loads(engine.with_name(f"{engine.name}.json").read_text("utf-8"))
    return data["argv"][1:], data["environment"]


def make_program(path: Path, text: str) -> Path:
    """An executable file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    path.chmod(0o755)
    return path


def make_checkout(directory: Path, files: Sequence[str] = (), tag: str | None = None) -> str:
    """A git repository with one commit, with an optional tag; returns the commit."""
    for name in files or ("README",):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text("x\n", "utf-8")
    git(directory, "init", "--quiet")
    git(directory, "add", "--all")
    git(directory, "commit", "--quiet", "--message", "all of it")
    if tag is not None:
        git(directory, "tag", tag)
    return git(directory, "rev-parse", "HEAD")


def git(directory: Path, *words: str) -> str:
    """Output of a git command that does not depend on user settings."""
    assert shutil.which("git")
    who = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", "-C", str(directory), *who, *words], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()
