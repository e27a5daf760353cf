"""Orchestration: seconds for each action of a cold apply with trivial bodies, one job at a time, beside what
a process (fork, exec nothing, wait) and one sync of the file system cost just before and just after. Chains of five;
the start of the tool and the fork server is in it."""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.project import TABLE
from benchmarks.report import Row, milliseconds
from mmbuild.api import plan_graphs
from mmbuild.core.execution.events import nowhere
from mmbuild.core.execution.options import Options
from mmbuild.core.execution.resources import Capacity
from mmbuild.core.execution.run_plan import run_plan
from mmbuild.core.graph.action import Action, RecipeGraph
from mmbuild.core.graph.keys import make_action
from mmbuild.core.store.layout import open_store
from mmbuild.core.store.publish import sync_file_system

SIZES = (100, 1000, 10_000)
_LINKS = 5


def measure() -> list[Row]:
    """One row for each size."""
    rows = []
    for actions in SIZES:
        with tempfile.TemporaryDirectory() as base:
            before = _floors(Path(base) / "before")
            seconds = _cold(Path(base) / "cold", actions)
            floor = statistics.median([*before, *_floors(Path(base) / "after")])
        rows.append(
            Row(
                f"cold apply of {actions} trivial actions, each",
                milliseconds(seconds / actions),
                f"fork + sync {milliseconds(floor)}: + {milliseconds(seconds / actions - floor)}",
                "+ 3 ms (stretch + 1 ms); linear",
            )
        )
    return rows


def _cold(root: Path, actions: int) -> float:
    root.mkdir()
    store = open_store(root / "store")
    graphs = [_chain(number) for number in range(actions // _LINKS)]
    begin = time.perf_counter()
    plan = plan_graphs(graphs, store, root / "build")
    result = run_plan(plan, specs=TABLE, options=Options(Capacity(1, 1 << 50, (), 1)), sink=nowhere)
    if len(result.ran) != actions:
        raise RuntimeError(f"{len(result.ran)} actions ran instead of {actions}: {result.failed[:1]}")
    return time.perf_counter() - begin


def _chain(number: int) -> RecipeGraph:
    actions: list[Action] = []
    for link in range(_LINKS):
        inputs = {"x": actions[-1].definition_key} if actions else {}
        actions.append(
            make_action(
                label=f"r{number}/{link}",
                step="convert",
                version="benchmark-1",
                params={"number": number, "link": link},
                inputs=inputs,
            )
        )
    return RecipeGraph(f"r{number}", tuple(actions), actions[-1].definition_key)


def _floors(root: Path) -> list[float]:
    """Seconds of: fork this process, write a small file in the child, wait, sync."""
    root.mkdir()
    times = []
    for number in range(50):
        begin = time.perf_counter()
        child = os.fork()
        if child == 0:
            (root / f"f{number}").write_bytes(b"x" * 100)
            os._exit(0)
        os.waitpid(child, 0)
        sync_file_system(root)
        times.append(time.perf_counter() - begin)
    sys.stdout.flush()
    return times
