"""Raylets killed while they build, counted: ``python tools/ray_faults.py --rounds 30``.

A round applies 19 actions on a cluster of five raylets on this machine, two of which are killed (SIGKILL) at random
moments. In every other round the two have a store of their own and a shared store to carry through. The result is
compared with that of an undisturbed apply without Ray: action keys and artifacts, and ``cache verify`` of the store.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from mmbuild.core.graph.action import RecipeGraph
from mmbuild.core.store.action_cache import load_cache
from mmbuild.core.store.verify import check_store
from support.projects.cluster import ClusterWorkspace, Raylets, raylets
from support.projects.workspace import Workspace
from support.steps.trivial import action

_WIDE = 6


@dataclass
class Counts:
    """What happened in all rounds."""

    killed: int = 0
    lost: int = 0
    failed: int = 0
    differing: int = 0
    damaged: int = 0


def graph(text: str) -> RecipeGraph:
    """Three ranks of actions and one that joins them."""
    first = [action("sleepy", f"r/a{i}", seconds=0.4, text=f"{text}{i}") for i in range(_WIDE)]
    second = [action("copy", f"r/b{i}", {"a": first[i], "b": first[i - 1]}) for i in range(_WIDE)]
    third = [action("sleepy", f"r/c{i}", {"a": second[i]}, seconds=0.3, text=text) for i in range(_WIDE)]
    last = action("write", "r/last", {str(i): producer for i, producer in enumerate(third)}, text="end")
    return RecipeGraph("r", (*first, *second, *third, last), last.definition_key)


def artifacts(workspace: Workspace) -> dict[str, str]:
    return {key: record.digest for key, record in load_cache(workspace.store).by_key.items()}


def one_round(cluster: Raylets, place: Path, chance: random.Random, counts: Counts, *, own: bool) -> None:
    """``own``: the nodes that are killed have a store of their own."""
    wanted, undisturbed = graph(place.name), Workspace(place / "undisturbed")
    undisturbed.apply(wanted)
    (place / "shared").mkdir()
    workspace = cluster.workspace(place / "driver", f"file://{place / 'shared'}" if own else "")
    environment = {"MMBUILD_NODE_STORE": str(place / "own")} if own else {}
    with cluster.more(2, env_vars=environment) as nodes:

        def kill_them() -> None:
            for node in nodes:
                time.sleep(chance.uniform(0.5, 2.0))
                cluster.kill(node)

        killer = threading.Thread(target=kill_them)
        killer.start()
        result = workspace.apply(wanted, keep_going=True)
        killer.join()
    _count(workspace, undisturbed, counts, failed=not result.ok)
    counts.killed += len(nodes)


def _count(workspace: ClusterWorkspace, undisturbed: Workspace, counts: Counts, *, failed: bool) -> None:
    counts.lost += workspace.warnings().count("MM845")
    counts.failed += failed
    counts.differing += artifacts(workspace) != artifacts(undisturbed)
    counts.damaged += bool(check_store(workspace.store).faults)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(arguments)
    os.environ["MMBUILD_STEPS"] = "support.steps.trivial:TABLE"
    counts, chance = Counts(), random.Random(asked.seed)
    with raylets() as cluster, tempfile.TemporaryDirectory() as temporary:
        for number in range(asked.rounds):
            place = Path(temporary, f"round{number}")
            place.mkdir()
            one_round(cluster, place, chance, counts, own=bool(number % 2))
            print(f"{number + 1}: {counts}", file=sys.stderr, flush=True)
    print(f"rounds={asked.rounds} {counts}")
    return int(bool(counts.failed or counts.differing or counts.damaged))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
