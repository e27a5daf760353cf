"""The first apply of the demo recipe in an empty store, run once per test run, by the first process that needs it.

``test_apply_llava.py`` checks it and continues in the same directory. Tests that only need the compiled
engines copy the store as it was after the first apply.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from mmbuild.core.graph.plan import Verdict

ROOT = Path(__file__).parents[3]
RECIPE = "recipes/demo/llava-int4.yaml"
NAME = "llava-shapes-int4"
COMPILED = ("build_llm", "build_visual")


class Tool:
    """`mmbuild` with its own store and build directory."""

    def __init__(self, root: Path, build: str = "build") -> None:
        self.root = root
        self.places = ["--store", str(root / "store"), "--build-dir", str(root / build)]
        self.engine = root / build / NAME

    def run(self, *arguments: object, status: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "mmbuild", *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, "NO_COLOR": "1"},
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr
        return done

    def plan(self, *arguments: object) -> dict[str, str]:
        """Step -> verdict, from the text of the plan."""
        text = self.run("plan", *arguments, *self.places).stdout
        found = re.findall(rf"^({'|'.join(Verdict)}) +{NAME}/(\w+) ", text, flags=re.M)
        # A line for each action, then the counts, and what they cost.
        counts = re.compile(r"\d+ (to|up|unknown) .*|everything is up to date .*")
        (end,) = [number for number, line in enumerate(text.splitlines()) if counts.fullmatch(line)]
        assert len(found) == end, text
        return {step: verdict for verdict, step in found}

    def apply(self, *arguments: object) -> list[str]:
        """Steps that ran, from the events."""
        return [step for step, _ in self.timed_apply(*arguments)]

    def timed_apply(self, *arguments: object) -> list[tuple[str, float]]:
        """Steps that ran, and how long each took, from the events."""
        out = self.run("apply", *arguments, *self.places, "--json").stdout
        events = [json.loads(line) for line in out.splitlines()]
        finished = [event for event in events if event["event"] == "finished"]
        return [(event["label"].partition("/")[2], event["seconds"]) for event in finished]

    def manifest(self) -> dict[str, Any]:
        actions = json.loads((self.engine / "manifest.json").read_text())["actions"]
        return {action["step"]: action for action in actions}


def first_apply(factory: pytest.TempPathFactory) -> Path:
    """Directory of the first apply: ``store``, ``build``, what was planned and what ran in ``told.json``, and in
    ``kept`` a copy of the store."""
    base = factory.getbasetemp()
    # The processes of one run have a directory each, side by side.
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "first-apply"
    root.mkdir(exist_ok=True)
    with (root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (root / "told.json").exists():
            tool = Tool(root)
            planned, timed = tool.plan(RECIPE), tool.timed_apply(RECIPE)
            data = {"planned": planned, "ran": [step for step, _ in timed], "seconds": dict(timed)}
            _copy(root / "store", root / "kept")
            (root / "told.json").write_text(json.dumps(data))
    return root


def compiled_store(factory: pytest.TempPathFactory, to: Path) -> None:
    """Make ``to`` a store in which of the demo recipe what is compiled is built, and nothing else."""
    _copy(first_apply(factory) / "kept", to)
    journal = to / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(_made_by(lines, COMPILED)))


def _made_by(lines: Iterable[str], steps: Iterable[str]) -> list[str]:
    labels = {f"{NAME}/{step}" for step in steps}
    found = [line for line in lines if json.loads(line)["label"] in labels]
    assert len(found) == len(labels)
    return found


def _copy(store: Path, to: Path) -> None:
    """Hard links between its files stay what they are."""
    subprocess.run(["cp", "-a", store, to], check=True)
