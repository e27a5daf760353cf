"""Trivial bodies under the names of the real steps, and an entry point that applies given graphs.

``python apply_chains.py STORE BUILD TEXT`` applies four chains of actions: the whole tool as a process of its
own, without recipes, so that tests can kill it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from mmbuild.api import plan_graphs
from mmbuild.cli.output import run_guarded
from mmbuild.core.execution.events import Event
from mmbuild.core.execution.options import Options
from mmbuild.core.execution.resources import Capacity
from mmbuild.core.execution.run_plan import run_plan
from mmbuild.core.graph.action import RecipeGraph
from mmbuild.core.store.layout import open_store
from support.steps.trivial import TABLE, action

RECIPES = 3


def graphs(text: str) -> list[RecipeGraph]:
    """Three recipes of four actions; the first action is shared."""
    shared = action("write", "shared", text=text)
    found = []
    for recipe in range(RECIPES):
        name = f"r{recipe}"
        middle = [
            action("sleepy", f"{name}/{i}", {"x": shared}, seconds=0.01, text=f"{recipe}{i}")
            for i in range(2)
        ]
        engine = action(
            "write", f"{name}/engine", {str(i): a for i, a in enumerate(middle)}, text=f"{text}{recipe}"
        )
        found.append(RecipeGraph(name, (shared, *middle, engine), engine.definition_key))
    return found


def expected(text: str) -> dict[str, str]:
    """What the engine directories must hold."""
    return {f"r{i}": f"{text}{i}+{i}0+{i}1" for i in range(RECIPES)}


def apply(store: Path, build: Path, text: str) -> int:
    """Apply and print the labels of what ran."""
    opened = open_store(store)
    options = Options(Capacity(2, 1 << 50, (), 2))

    def sink(event: Event) -> None:
        print(event.kind, event.label, file=sys.stderr, flush=True)

    result = run_plan(plan_graphs(graphs(text), opened, build), specs=TABLE, options=options, sink=sink)
    for label in result.ran:
        print(label)
    for failed in result.failed:
        print(failed.message, file=sys.stderr)
    return 0 if result.ok else 1


if __name__ == "__main__":
    sys.exit(run_guarded(lambda: apply(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]), debug=True))
