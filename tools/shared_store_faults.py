"""Count what a shared store survives: python tools/shared_store_faults.py [--rounds N]

Each round starts two machines (processes with a local store each) at once on one shared store, kills them in turn
with SIGKILL at a random moment, lets both apply again, and compares every engine, and that of a third machine which
comes later, with what an undisturbed build gives. Then the local stores are checked (every file hashed again). As
root (with setpriv) the two machines are two users. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / "tests"
sys.path[:0] = [str(TESTS), str(ROOT / "src")]

from mmbuild.core.store.layout import open_store  # noqa: E402
from mmbuild.core.store.verify import check_store  # noqa: E402
from mmbuild.team.remote_cache.remote_cache import SharedStore  # noqa: E402
from support.projects.machines import Machine, Unreliable  # noqa: E402
from support.steps import apply_chains, apply_shared  # noqa: E402
from support.steps.trivial import chain  # noqa: E402

_USERS = (65533, 65534)
_TEXT = "a"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    print("| fault | rounds | faults that happened | engines that differ | damage found by cache verify |")
    print("|---|---|---|---|---|")
    cases: tuple[tuple[str, Callable[[int], Counter[str]]], ...] = (
        (f"kill -9 in turn, two machines{_as_users()}, one shared store", _kill_machines),
        ("kill -9 in turn, two processes on one local store and one shared store", _kill_processes),
        ("30 % of all requests fail, before or after they are done", _unreliable),
        ("half of the published files damaged, cut short or removed between two machines", _damaged),
    )
    for name, case in cases:
        count: Counter[str] = Counter()
        for number in range(arguments.rounds):
            count += case(number)
        shown = (count["faults"], count["different"], count["damage"])
        print(f"| {name} | {arguments.rounds} | {shown[0]} | {shown[1]} | {shown[2]} |", flush=True)


def _kill_machines(number: int) -> Counter[str]:
    with _place() as place:
        stores = [place / name for name in ("one", "other")]
        users = _USERS if _two_users() else (None, None)
        return _killed(place, stores, users, number)


def _kill_processes(number: int) -> Counter[str]:
    with _place() as place:
        return _killed(place, [place / "one", place / "one"], (None, None), number)


def _killed(
    place: Path, homes: list[Path], users: tuple[int | None, int | None], number: int
) -> Counter[str]:
    """Start two, kill one and then the other, and let both end."""
    builds = [home / f"build{index}" for index, home in enumerate(homes)]
    for home, user in zip(homes, users, strict=True):
        home.mkdir(exist_ok=True)
        if user is not None:
            os.chown(home, user, user)
    count: Counter[str] = Counter()

    def start(index: int) -> subprocess.Popen[bytes]:
        return _start(place, homes[index] / "store", builds[index], users[index])

    for victim in (number % 2, 1 - number % 2):
        processes = [start(0), start(1)]
        time.sleep(random.uniform(0.05, 0.45))
        if processes[victim].poll() is None:
            processes[victim].send_signal(signal.SIGKILL)
            count["faults"] += 1
        for process in processes:
            process.wait()
    for index in range(2):
        again = start(index)
        if again.wait() != 0:
            raise SystemExit(f"an apply after the kills failed: see {place}")
    count["different"] += sum(_engines(build) != _expected() for build in builds)
    count["damage"] += sum(len(check_store(open_store(home / "store")).faults) for home in set(homes))
    third = _start(place, place / "third" / "store", place / "third" / "build", None)
    third.communicate()
    count["different"] += _engines(place / "third" / "build") != _expected()
    return count


def _unreliable(number: int) -> Counter[str]:
    with _place() as place:
        count: Counter[str] = Counter()
        machines, texts = [], []
        for name in ("one", "other"):
            seed = random.randrange(1 << 30) + number
            machine = Machine(
                place / name, url=_url(place), broken=lambda found, seed=seed: Unreliable(found, 0.3, seed)
            )
            shared = machine.shared()
            machine.apply(chain("r", links=8), shared=shared)
            count["faults"] += _faults(shared)
            machines.append(machine)
            texts.append((machine.text("r"), machine.digest("r/7")))
        count["different"] += texts[0] != texts[1]
        count["damage"] += sum(len(check_store(machine.store).faults) for machine in machines)
        return count


def _damaged(number: int) -> Counter[str]:
    del number
    with _place() as place:
        count: Counter[str] = Counter()
        one, other = (Machine(place / name, url=_url(place)) for name in ("one", "other"))
        one.apply(chain("r", links=8))
        for path in sorted((place / "shared" / "v1").rglob("*")):
            if path.is_file() and random.random() < 0.5:
                _harm(path)
                count["faults"] += 1
        other.apply(chain("r", links=8))
        third = Machine(place / "third", url=_url(place))
        third.apply(chain("r", links=8))
        found = {machine.text("r") for machine in (one, other, third)}
        count["different"] += len(found) - 1
        count["damage"] += sum(len(check_store(machine.store).faults) for machine in (other, third))
        return count


def _harm(path: Path) -> None:
    content = path.read_bytes()
    kind = random.randrange(3)
    path.unlink()
    if kind < 2:
        path.write_bytes(content[: len(content) // 2] if kind else bytes(byte ^ 4 for byte in content))


def _faults(shared: SharedStore) -> int:
    found = shared.place
    return found.faults if isinstance(found, Unreliable) else 0


def _start(place: Path, store: Path, build: Path, user: int | None) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "PYTHONPATH": f"{TESTS}:{ROOT / 'src'}",
        "MMBUILD_REMOTE": _url(place),
        "MMBUILD_PUSH": "always",
        "HOME": str(place),
    }
    words = [sys.executable, apply_shared.__file__, str(store), str(build), _TEXT]
    return subprocess.Popen(
        [*_becoming(user), *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _becoming(user: int | None) -> list[str]:
    """A prefix that makes a command another user's, who may still read the interpreter wherever it lies."""
    if user is None:
        return []
    may_read = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
    return ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *may_read]


def _engines(build: Path) -> dict[str, str]:
    return {path.parent.name: path.read_text() for path in build.glob("*/text")}


def _expected() -> dict[str, str]:
    return dict(apply_chains.expected(_TEXT))


def _two_users() -> bool:
    return os.geteuid() == 0 and shutil.which("setpriv") is not None


def _as_users() -> str:
    return " of two users" if _two_users() else ""


def _url(place: Path) -> str:
    return f"file://{place}/shared"


@contextmanager
def _place() -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix="mmbuild-shared-"))
    place.chmod(0o755)
    (place / "shared").mkdir()
    (place / "shared").chmod(0o777)
    yield place
    shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    main()
