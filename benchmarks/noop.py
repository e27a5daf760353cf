"""Nothing to do: `mmbuild apply` of up-to-date recipes (trivial step bodies, real recipes, six actions of
their own each), and `mmbuild plan` after one of them changed; `make` on as many up-to-date files beside it.
Median of 7 runs each."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import tempfile
import time
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
    beside = _make(root / "make", actions)
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


def _make(root: Path, targets: int) -> str:
    """The same number of up-to-date targets for `make`."""
    program = shutil.which("make")
    if program is None:
        return "make is not installed"
    root.mkdir()
    names = [f"t{number}" for number in range(targets)]
    rules = [
        f"{name}: {names[number - 1] if number % 5 else 'source'}\n\ttouch {name}\n"
        for number, name in enumerate(names)
    ]
    (root / "Makefile").write_text(f"all: {' '.join(names)}\n" + "".join(rules))
    (root / "source").touch()
    for name in names:
        (root / name).touch()
    os.utime(root / "source", (1, 1))
    subprocess.run([program, "-s"], cwd=root, check=True, capture_output=True)
    return f"make {milliseconds(command_seconds([program, '-s'], cwd=root))}"
