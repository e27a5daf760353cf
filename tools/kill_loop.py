"""Kill applies that run at the same time on one store: python tools/kill_loop.py [--kills N] [--seed N]

Each round starts two applies of three recipes at once, on one store with a build directory each, and kills both with
SIGKILL at random moments, six times; in half of these one of them has a fault point in the code that publishes, where
it kills itself. Then both apply undisturbed, one after the other: the engines must be what an undisturbed build
gives, and every file of the store is hashed again. Prints a table in Markdown; the exit status is 1 where anything
was wrong.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / "tests"
sys.path[:0] = [str(TESTS), str(ROOT / "src")]

from mmbuild.core.store.layout import open_store  # noqa: E402
from mmbuild.core.store.verify import check_store  # noqa: E402
from support.steps import apply_chains  # noqa: E402

FAULTS = (
    "publish-objects",
    "publish-tree",
    "publish-manifest",
    "journal-before",
    "journal-torn",
    "journal-after",
)
_ATTEMPTS = 6
_LONGEST = 0.8
"""Seconds after which a kill comes at the latest: about what an undisturbed apply takes."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    draw, count, begin = random.Random(arguments.seed), Counter[str](), time.monotonic()
    while count["kills"] < arguments.kills:
        with tempfile.TemporaryDirectory(prefix="mmbuild-kill-") as place:
            count += one_round(Path(place), draw)
    names = ("rounds", "kills", "wrong engines", "failed applies", "damage found by cache verify")
    print(f"| {' | '.join(names)} |\n|{'---|' * len(names)}")
    print(f"| {' | '.join(str(count[name]) for name in names)} |")
    print(f"{time.monotonic() - begin:.0f} s")
    return 1 if any(count[name] for name in names[2:]) else 0


def one_round(place: Path, draw: random.Random) -> Counter[str]:
    """Kill two applies six times, let both end, and compare; see the module."""
    count, text = Counter({"rounds": 1}), draw.choice("ab")
    for _ in range(_ATTEMPTS):
        fault = draw.choice(FAULTS) if draw.random() < 0.5 else None
        running = [_start(place, name, text, fault if name == "one" else None) for name in ("one", "two")]
        for process in draw.sample(running, 2):
            count["kills"] += _killed(process, draw.uniform(0.05, _LONGEST))
    for name in ("one", "two"):
        process = _start(place, name, text, None)
        _, said = process.communicate(timeout=120)
        count["failed applies"] += process.returncode != 0
        if process.returncode:
            print(said.decode(errors="replace")[-2000:], file=sys.stderr)
        count["wrong engines"] += sum(
            not _holds(place / f"build-{name}" / recipe / "text", content)
            for recipe, content in apply_chains.expected(text).items()
        )
    store = open_store(place / "store")
    found = check_store(store)
    count["damage found by cache verify"] += len(found.faults)
    count["damage found by cache verify"] += len(list(store.staging.iterdir()))
    return count


def _start(place: Path, name: str, text: str, fault: str | None) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(TESTS), str(ROOT / "src")))}
    environment["MMBUILD_TEST_COUNT"] = str(place / "count")
    if fault:
        environment["MMBUILD_FAULT"] = fault
    return subprocess.Popen(
        [
            sys.executable,
            apply_chains.__file__,
            str(place / "store"),
            str(place / f"build-{name}"),
            text,
        ],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def _killed(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether the apply died by a kill (ours, or its fault point's) rather than ending by itself."""
    try:
        process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    return process.returncode == -signal.SIGKILL


def _holds(path: Path, content: str) -> bool:
    return path.is_file() and path.read_text() == content


if __name__ == "__main__":
    sys.exit(main())
