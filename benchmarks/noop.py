"""Nothing to do: `mmbuild apply` of up-to-date recipes (trivial step bodies, real recipes, six actions of
their own each), and `mmbuild plan` after one of them changed. Beside it other tools on as many up-to-date targets
in chains of five: `make` and `ninja` (C and C++, compare times, one stat(2) a target), `doit` (Python, compares the
digests of what changed its time). Each is first seen to rebuild everything when the source is newer, so that its
time is that of really looking. Median of 7 runs each."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.project import environment, make_project, tool
from benchmarks.report import Row, command_seconds, milliseconds

SIZES = (2, 20, 200)
_SETTLE_SECONDS = 0.2


def measure() -> list[Row]:
    """One row for each size, and one for a plan with a change."""
    rows = []
    for recipes in SIZES:
        with tempfile.TemporaryDirectory() as base:
            rows += _measure(Path(base), recipes)
    return rows


def _measure(root: Path, recipes: int) -> list[Row]:
    paths = make_project(root, recipes)
    where = {"cwd": root, "environment": environment(root)}
    time.sleep(_SETTLE_SECONDS)  # files written a moment ago are not cached by their times
    first = tool("apply", "--offline", *paths)
    subprocess.run(first, cwd=root, env=where["environment"], check=True, capture_output=True)
    actions = len((root / "store" / "journal.jsonl").read_text().splitlines())
    seconds = command_seconds(tool("apply", "--offline", *paths), **where)
    beside = ", ".join(_beside(root / name, name, actions) for name in _OTHERS)
    bound = "250 ms (stretch 100 ms)" if recipes == max(SIZES) else ""
    rows = [
        Row(
            f"apply, {recipes} recipes, {actions} actions, nothing to do",
            milliseconds(seconds),
            beside,
            bound,
        )
    ]
    if recipes == min(SIZES):
        rows.append(_changed(paths, where))
    return rows


def _changed(paths: list[Path], where: dict) -> Row:
    """A plan whose recipe is different each time, so that the plan cache never has it."""
    times = []
    for number in range(6):
        begin = time.perf_counter()
        subprocess.run(
            tool("plan", "--offline", "--set", f"engine.max_output_len={30 + number}", paths[0]),
            cwd=where["cwd"],
            env=where["environment"],
            check=True,
            capture_output=True,
        )
        times.append(time.perf_counter() - begin)
    return Row(
        "plan of one changed recipe, warm",
        milliseconds(statistics.median(times)),
        "",
        "400 ms (stretch 250 ms)",
    )


def _beside(root: Path, name: str, targets: int) -> str:
    """The same number of up-to-date targets for another tool."""
    program = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if program is None:
        return f"{name} is not installed"
    root.mkdir()
    other = _OTHERS[name]
    rules = [
        other.rule.format(target=f"t{number}", source=f"t{number - 1}" if number % 5 else "source")
        for number in range(targets)
    ]
    (root / other.file).write_text(other.head + "".join(rules) + other.tail)
    (root / "source").write_text("old")
    command = [program, *other.options]
    _run(command, root)
    (root / "source").write_text("newer")
    if (done := _rebuilt(command, root)) != targets:
        raise RuntimeError(f"{name} made {done} of {targets} targets after the source had changed")
    return f"{name} {milliseconds(command_seconds(command, cwd=root))}"


def _rebuilt(command: list[str], root: Path) -> int:
    """Targets that are written anew."""
    before = {path.name: path.stat().st_mtime_ns for path in root.glob("t*")}
    _run(command, root)
    return sum(before.get(path.name) != path.stat().st_mtime_ns for path in root.glob("t*"))


def _run(command: list[str], root: Path) -> None:
    subprocess.run(command, cwd=root, check=True, capture_output=True)


@dataclass(frozen=True, slots=True)
class _Other:
    """A tool: the name of its build file, the text around its rules, one rule, and its options."""

    file: str
    rule: str
    head: str = ""
    tail: str = ""
    options: tuple[str, ...] = ()


_OTHERS = {
    "make": _Other(
        "Makefile",
        "all: {target}\n{target}: {source}\n\t@cp {source} {target}\n",
        head="all:\n",
        options=("-s",),
    ),
    "ninja": _Other(
        "build.ninja",
        "build {target}: copy {source}\n",
        head="rule copy\n  command = cp $in $out\n",
        options=("--quiet",),
    ),
    "doit": _Other(
        "dodo.py",
        "    yield dict(name='{target}', file_dep=['{source}'], targets=['{target}'],"
        " actions=['cp {source} {target}'])\n",
        head="def task_copy():\n",
        options=("-v", "0"),
    ),
}
