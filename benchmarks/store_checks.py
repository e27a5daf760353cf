"""What the checks of the store cost: this checkout and an older one, in turns, so that both meet the same machine.

    python -m benchmarks.store_checks --old CHECKOUT

Two numbers, each the lowest of some runs (other programs only ever add): an apply that has nothing to do, of 200
recipes with about 1,000 actions, and a cold apply of trivial actions with one job, for each action.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.project import make_project
from benchmarks.report import Row, machine, milliseconds, table

HERE = Path(__file__).parents[1]
RECIPES = 200
_SETTLE_SECONDS = 0.2


def measure(old: Path, recipes: int = RECIPES, warm: int = 15, cold: int = 3) -> list[Row]:
    """One row for each question."""
    with tempfile.TemporaryDirectory() as base:
        sides = {
            "old": _Side(Path(base) / "old", old, recipes),
            "new": _Side(Path(base) / "new", HERE, recipes),
        }
        time.sleep(_SETTLE_SECONDS)  # files written a moment ago are not cached by their times
        first: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(cold):
            for name, side in sides.items():
                side.forget()
                first[name].append(side.apply("--jobs", "1"))
        again: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(warm):
            for name, side in sides.items():
                again[name].append(side.apply())
        actions = sides["new"].actions
    return [
        _row(f"apply of {actions} actions, nothing to do", again, 1, "+ 10 %"),
        _row(f"cold apply of {actions} trivial actions, one job, each", first, actions, "+ 5 %"),
    ]


class _Side:
    """A project, and the checkout that builds it."""

    def __init__(self, root: Path, checkout: Path, recipes: int) -> None:
        self.root = root
        self.paths = make_project(root, recipes)
        self.environment = {
            **os.environ,
            "MMBUILD_STORE": str(root / "store"),
            "MMBUILD_STEPS": "benchmarks.project:TABLE",
            "PYTHONPATH": f"{checkout / 'src'}{os.pathsep}{checkout}",
        }

    def apply(self, *options: str) -> float:
        """Seconds of an apply of everything."""
        command = [sys.executable, "-m", "mmbuild", "apply", "--offline", *options, *map(str, self.paths)]
        begin = time.perf_counter()
        subprocess.run(command, cwd=self.root, env=self.environment, check=True, capture_output=True)
        return time.perf_counter() - begin

    def forget(self) -> None:
        """Remove what was built, and keep the cached plan, which is no part of the question."""
        shutil.rmtree(self.root / "build", ignore_errors=True)
        store = self.root / "store"
        (store / "journal.jsonl").unlink(missing_ok=True)
        for name in ("objects", "trees", "manifests", "roots", "definitions", "logs", "locks"):
            if (store / name).is_dir():
                shutil.rmtree(store / name)
                (store / name).mkdir()

    @property
    def actions(self) -> int:
        """How many the project has."""
        return len((self.root / "store" / "journal.jsonl").read_text().splitlines())


def _row(what: str, seconds: dict[str, list[float]], parts: int, bound: str) -> Row:
    old, new = (min(seconds[name]) / parts for name in ("old", "new"))
    return Row(what, f"{milliseconds(new)} ({new / old - 1:+.1%})", f"before {milliseconds(old)}", bound)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--old", type=Path, required=True, help="checkout to compare with")
    parser.add_argument("--recipes", type=int, default=RECIPES)
    options = parser.parse_args()
    print(machine())
    print(table(measure(options.old, options.recipes)))


if __name__ == "__main__":
    main()
