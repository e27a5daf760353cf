"""A matrix of 200 recipes in one file, about 1,000 actions whose bodies only join the texts of their inputs: a cold
apply with two jobs, then nothing to do, a plan of that, and one recipe whose model has changed. Beside it ninja (C++,
compares times), doit, snakemake, redun and dvc (Python) on the same graph, which is read from mmbuild's own plan;
what each of them is given is in `benchmarks/peers.py`. They are found beside this Python or on PATH
(`pip install -e '.[bench]'`, in a virtual environment of their own if need be); what is not installed is said.
Each is seen to make everything anew once, nothing when nothing changed, and of one changed recipe as many actions as
mmbuild. Median of 7 runs, of 3 where one takes more than 2 s; cold runs once, and dvc, which has one job only, is
stopped after two minutes and told to take what it had left for made. mmbuild syncs what it publishes and keeps it by
content; its plan prints a line for each action, the others are told to be quiet."""

from __future__ import annotations

import json
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks import peers
from benchmarks.peers import PEERS, Graph, Peer
from benchmarks.project import environment, make_matrix, make_model, tool
from benchmarks.report import Row, milliseconds
from mmbuild.core.steps.context import StepContext
from mmbuild.core.steps.registry import StepSpec
from mmbuild.steps.table import STEPS

RECIPES = 200
BOUND = "250 ms (stretch 100 ms)"
_SETTLE_SECONDS = 0.2
_COLD_SECONDS = 120
_CHANGED = RECIPES // 2


def body(context: StepContext) -> None:
    """Join what the inputs have."""
    read = [(path / "text").read_text() for _, path in sorted(context.inputs.items())]
    (context.out / "text").write_text("".join(read) or json.dumps(dict(context.sources)))


TABLE: Mapping[str, StepSpec] = {
    name: StepSpec(name, "benchmark-1", "benchmarks.scale:body") for name in STEPS
}


def measure() -> list[Row]:
    """One row for each question, mmbuild's time and beside it the others'."""
    with tempfile.TemporaryDirectory() as base:
        graph, ours, actions = _ours(Path(base) / "mmbuild")
        others = {name: _theirs(Path(base) / name, name, graph) for name in PEERS}
    questions = {
        "cold apply, 2 jobs": "",
        "nothing to do, apply": BOUND,
        "nothing to do, plan": "",
        "one recipe changed, apply": "",
    }
    start = f"{len(graph.recipes)} recipes, {actions} actions: "
    return [
        Row(start + question, milliseconds(ours[question]), _beside(question, ours[question], others), bound)
        for question, bound in questions.items()
    ]


def _beside(question: str, ours: float, others: Mapping[str, Mapping[str, float | str] | None]) -> str:
    told = []
    for name, times in others.items():
        if times is None:
            told.append(f"{name} is not installed")
        elif question in times:
            jobs = ", one job" if question.startswith("cold") and not PEERS[name].parallel else ""
            value = times[question]
            spent = value if isinstance(value, str) else f"{milliseconds(value)} ({value / ours:.2g}x)"
            told.append(f"{name} {spent}{jobs}")
    return "; ".join(told)


def _ours(root: Path) -> tuple[Graph, dict[str, float], int]:
    """The graph of the matrix, mmbuild's times, and how many actions there are."""
    recipe, models = make_matrix(root, RECIPES)
    time.sleep(_SETTLE_SECONDS)  # files written a moment ago are not cached by their times
    surroundings = environment(root, "benchmarks.scale:TABLE")

    def run(*arguments: str | Path) -> float:
        return _seconds(tool(*arguments, "--offline", recipe), root, surroundings)

    def ran() -> int:
        # Two writers at the same moment may leave an empty line between them.
        return sum(bool(line) for line in (root / "store" / "journal.jsonl").read_text().splitlines())

    def change(number: int) -> None:
        make_model(models[_CHANGED], RECIPES + number)

    cold = run("apply", "--jobs", "2")
    actions = ran()
    graph = _graph(recipe, root)
    if actions != len(graph.actions()):
        raise RuntimeError(f"{actions} actions ran, and {len(graph.actions())} are planned")
    times = {
        "cold apply, 2 jobs": cold,
        "nothing to do, apply": _median(_times(lambda: run("apply"))),
        "nothing to do, plan": _median(_times(lambda: run("plan"))),
    }
    if ran() != actions:
        raise RuntimeError("actions ran though nothing had changed")
    changed = _times(lambda: run("apply", "--jobs", "2"), change)
    times["one recipe changed, apply"] = _median(changed)
    if ran() - actions != len(changed) * _own(graph):
        raise RuntimeError(f"{ran() - actions} actions ran after {len(changed)} changes of one recipe")
    return graph, times, actions


def _graph(recipe: Path, root: Path) -> Graph:
    """What mmbuild plans for the matrix; every recipe is made sure to have the same steps."""
    import mmbuild

    plan = mmbuild.plan(mmbuild.load_recipe(recipe), store=root / "store", build_dir=root / "build")
    actions = {planned.action.definition_key: planned.action for planned in plan.actions}
    found: dict[str, set[frozenset[str]]] = {}
    counts: dict[str, int] = {}
    for action in actions.values():
        read = frozenset(actions[key].step for key in action.inputs.values())
        found.setdefault(action.step, set()).add(read)
        counts[action.step] = counts.get(action.step, 0) + 1
    if any(len(ways) != 1 for ways in found.values()) or set(counts.values()) - {1, RECIPES}:
        raise RuntimeError("the recipes of the matrix do not all have the same steps")
    steps: dict[str, tuple[str, ...]] = {}
    while len(steps) < len(found):
        steps |= {
            step: tuple(sorted(read))
            for step, (read,) in found.items()
            if step not in steps and read <= steps.keys()
        }
    recipes = tuple(f"m{number:03d}" for number in range(RECIPES))
    return Graph(recipes, steps, frozenset(step for step, count in counts.items() if count == 1))


def _own(graph: Graph) -> int:
    """Actions of one recipe alone."""
    return len(graph.steps.keys() - graph.shared)


def _theirs(root: Path, name: str, graph: Graph) -> dict[str, float | str] | None:
    """Another tool's times, by question; None where it is not installed."""
    peer = PEERS[name]
    if peers.program(peer.cold[0]) is None:
        return None
    peers.write(peer, graph, root)

    def run(command: Sequence[str]) -> float:
        return _seconds([str(peers.program(command[0])), *command[1:]], root)

    def change(number: int) -> None:
        (root / peers.SOURCE / graph.recipes[_CHANGED]).write_text(f"changed {number}\n")

    for command in peer.setup:
        run(command)
    times: dict[str, float | str] = {"cold apply, 2 jobs": _cold(peer, graph, root)}
    made = _made(root, graph)
    times["nothing to do, apply"] = _median(_times(lambda: run(peer.again)))
    if peer.plan is not None:
        plan = peer.plan
        times["nothing to do, plan"] = _median(_times(lambda: run(plan)))
    _require(name, made, _made(root, graph), 0)
    change(0)
    run(peer.again)
    _require(name, made, _made(root, graph), _own(graph))
    times["one recipe changed, apply"] = _median(_times(lambda: run(peer.again), change))
    return times


def _cold(peer: Peer, graph: Graph, root: Path) -> float | str:
    """Seconds of the first run, or how far it came."""
    command = [str(peers.program(peer.cold[0])), *peer.cold[1:]]
    begin = time.perf_counter()
    process = subprocess.Popen(command, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        if (status := process.wait(None if peer.adopt is None else _COLD_SECONDS)) != 0:
            raise RuntimeError(f"{command} ended with {status}")
        return time.perf_counter() - begin
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        process.wait()
    assert peer.adopt is not None
    done = peers.finish(peer, graph, root)
    _seconds([command[0], *peer.adopt[1:]], root)
    return f"stopped after {_COLD_SECONDS} s, {done} made"


def _made(root: Path, graph: Graph) -> dict[str, int]:
    """When each file was written."""
    return {out: (root / out).stat().st_mtime_ns for out, _ in graph.actions()}


def _require(name: str, before: Mapping[str, int], after: Mapping[str, int], count: int) -> None:
    changed = sum(after[out] != written for out, written in before.items())
    if changed != count:
        raise RuntimeError(f"{name} wrote {changed} files instead of {count}")


def _times(run: Callable[[], float], prepare: Callable[[int], None] = lambda _: None) -> list[float]:
    """One time that does not count, and those of 7 runs, or of 3 slow ones."""
    times: list[float] = []
    while len(times) < (3 if times and times[0] > 2 else 7) + 1:
        prepare(len(times) + 1)
        times.append(run())
    return times


def _median(times: Sequence[float]) -> float:
    return statistics.median(times[1:])


def _seconds(command: Sequence[str], root: Path, environment: Mapping[str, str] | None = None) -> float:
    begin = time.perf_counter()
    done = subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, check=False, timeout=1800
    )
    if done.returncode != 0:
        raise RuntimeError(f"{list(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
    return time.perf_counter() - begin
