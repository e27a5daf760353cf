"""Other build tools on a graph of recipes: what is written for each, and the commands that are timed.

Every action is ``cat`` of its inputs into one file, every recipe starts at a file of its own. Each tool gets the
graph in the form that its manual would have: wildcards for snakemake, ``foreach`` for dvc, one statement a file for
ninja, a generator for doit, tasks for redun (in Python: it runs functions).
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

SOURCE, ALL = "source", "all"


@dataclass(frozen=True, slots=True)
class Graph:
    """Recipes that all have the same steps.

    Attributes:
        recipes: Their names.
        steps: Each step and the steps that it reads, producers first. A step without any reads the recipe's source.
        shared: Steps of which there is one for all recipes.
    """

    recipes: tuple[str, ...]
    steps: Mapping[str, tuple[str, ...]]
    shared: frozenset[str]

    @property
    def last(self) -> str:
        """The step that nothing reads."""
        return list(self.steps)[-1]

    def output(self, step: str, recipe: str) -> str:
        """The file of a step; ``recipe`` may be a tool's wildcard."""
        return f"{step}/{ALL if step in self.shared else recipe}"

    def inputs(self, step: str, recipe: str) -> list[str]:
        """The files that a step reads."""
        read = [self.output(producer, recipe) for producer in self.steps[step]]
        return read or [f"{SOURCE}/{ALL if step in self.shared else recipe}"]

    def actions(self) -> list[tuple[str, list[str]]]:
        """Every file and what it is made of."""
        return [
            (self.output(step, recipe), self.inputs(step, recipe))
            for step in self.steps
            for recipe in (self.recipes[:1] if step in self.shared else self.recipes)
        ]


@dataclass(frozen=True, slots=True)
class Peer:
    """A tool: its build file, what prepares its directory, and its commands.

    Attributes:
        file: Name of the build file.
        text: Its content for a graph.
        cold: Everything with two jobs, ``parallel`` where it can.
        again: The same where little or nothing is to be done.
        plan: Only what would be done; None where the tool cannot say.
        setup: Commands before the first run.
        extra: More files.
        adopt: Takes outputs that are there for made, where a cold run had to be stopped.
        state: What such a run had written down, perhaps not to its end.
    """

    file: str
    text: Callable[[Graph], str]
    cold: tuple[str, ...]
    again: tuple[str, ...]
    plan: tuple[str, ...] | None = None
    parallel: bool = True
    setup: tuple[tuple[str, ...], ...] = ()
    extra: Mapping[str, str] | None = None
    adopt: tuple[str, ...] | None = None
    state: str | None = None


def program(name: str) -> str | None:
    """Where a tool is: beside this Python, or on PATH."""
    return shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


def write(peer: Peer, graph: Graph, root: Path) -> None:
    """Fill ``root`` with sources, build file and empty directories for the outputs."""
    for directory in (SOURCE, *graph.steps):
        (root / directory).mkdir(parents=True)
    for recipe in (*graph.recipes, ALL):
        (root / SOURCE / recipe).write_text(f"{recipe}\n")
    for name, text in {peer.file: peer.text(graph), **(peer.extra or {})}.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)


def finish(peer: Peer, graph: Graph, root: Path) -> int:
    """Make all outputs as the tool would and forget its state; how many it had made itself."""
    if peer.state is not None:
        (root / peer.state).unlink(missing_ok=True)
    made = [out for out, _ in graph.actions() if (root / out).exists()]
    for out, read in graph.actions():
        (root / out).unlink(missing_ok=True)
        (root / out).write_text("".join((root / name).read_text() for name in read))
    return len(made)


def _ninja(graph: Graph) -> str:
    rule = "rule run\n  command = cat $in > $out\n"
    return rule + "".join(f"build {out}: run {' '.join(read)}\n" for out, read in graph.actions())


def _doit(graph: Graph) -> str:
    return (
        f"ACTIONS = {graph.actions()!r}\n"
        "def task_build():\n"
        "    for out, read in ACTIONS:\n"
        "        yield dict(name=out, file_dep=read, targets=[out],"
        " actions=['cat ' + ' '.join(read) + ' > ' + out])\n"
    )


def _snakemake(graph: Graph) -> str:
    wanted = f"rule all:\n    input: expand('{graph.last}/{{r}}', r={list(graph.recipes)!r})\n"
    rules = (
        f"rule {step}:\n    input: {graph.inputs(step, '{r}')!r}\n    output: '{graph.output(step, '{r}')}'\n"
        "    shell: 'cat {input} > {output}'\n"
        for step in graph.steps
    )
    return wanted + "".join(rules)


def _dvc(graph: Graph) -> str:
    text = "stages:\n"
    for step in graph.steps:
        read, out = graph.inputs(step, "${item}"), graph.output(step, "${item}")
        stage = (
            f"cmd: cat {' '.join(read)} > {out}\n%sdeps: [{', '.join(map(repr, read))}]\n%souts: ['{out}']\n"
        )
        if step in graph.shared:
            text += f"  {step}:\n    " + stage.replace("%s", " " * 4)
        else:
            each = f"  {step}:\n    foreach: [{', '.join(graph.recipes)}]\n    do:\n      "
            text += each + stage.replace("%s", " " * 6)
    return text


def _redun(graph: Graph) -> str:
    return (
        "from redun import File, task\n"
        "redun_namespace = 'benchmark'\n"
        f"ACTIONS = {graph.actions()!r}\n"
        "@task(version='1')\n"
        "def run(out: str, read: list[File]) -> File:\n"
        "    made = File(out)\n"
        "    made.write(''.join(file.read() for file in read))\n"
        "    return made\n"
        "@task(version='1', check_valid='full')\n"
        "def main() -> list[File]:\n"
        "    made = {}\n"
        "    for out, read in ACTIONS:\n"
        "        made[out] = run(out, [made[name] if name in made else File(name) for name in read])\n"
        "    return list(made.values())\n"
    )


PEERS: Mapping[str, Peer] = {
    "ninja": Peer(
        "build.ninja", _ninja, ("ninja", "--quiet", "-j2"), ("ninja", "--quiet"), ("ninja", "--quiet", "-n")
    ),
    "doit": Peer("dodo.py", _doit, ("doit", "-v", "0", "-n", "2"), ("doit", "-v", "0")),
    "snakemake": Peer(
        "Snakefile",
        _snakemake,
        ("snakemake", "--quiet", "all", "--cores", "2"),
        ("snakemake", "--quiet", "all", "--cores", "2"),
        ("snakemake", "--quiet", "all", "--dry-run"),
    ),
    "redun": Peer(
        "workflow.py",
        _redun,
        ("redun", "run", "workflow.py", "main"),
        ("redun", "run", "workflow.py", "main"),
        extra={".redun/redun.ini": "[executors.default]\ntype = local\nmax_workers = 2\n"},
    ),
    "dvc": Peer(
        "dvc.yaml",
        _dvc,
        ("dvc", "repro", "--quiet"),
        ("dvc", "repro", "--quiet"),
        ("dvc", "status", "--quiet"),
        parallel=False,
        adopt=("dvc", "commit", "--force", "--quiet"),
        state="dvc.lock",
        setup=(
            ("dvc", "init", "--no-scm", "--quiet"),
            ("dvc", "config", "core.analytics", "false"),
            ("dvc", "config", "core.check_update", "false"),
        ),
    ),
}
