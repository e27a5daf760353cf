"""Damage files and see what mmbuild says: python tools/fuzz.py [--seconds N] [--seed N] [--only NAME]

Every kind of file that mmbuild reads (``fuzz_world.TARGETS``) is damaged in turn (``mutations``), by hypothesis, in
a process of its own, and read through the command line. Counted as failures are: any exception but a coded error of
mmbuild, "a bug in mmbuild", an exit status that the kind does not allow, more than 5 s, more than 1 GB. Each is
printed with the damaged file that showed it, kept under ``.mmbuild/fuzz``. Prints a table in Markdown; the exit
status is 1 where anything failed.
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests"), str(ROOT / "src")]

from hypothesis import HealthCheck, Phase, given, seed, settings  # noqa: E402

from fuzz_world import HEAVY, TARGETS, Target, make_world, world_environment  # noqa: E402
from mutations import mutants  # noqa: E402

SECONDS = 5
MEMORY = 1 << 30
KEPT = ROOT / ".mmbuild" / "fuzz"
_BATCH = 20
_STUCK = 60
"""Seconds without a new input after which a process counts as hanging in foreign code."""


@dataclass(slots=True)
class Count:
    """What happened to one kind of file.

    Attributes:
        inputs: Damaged files that were read.
        refused: Of these, how many any reader refused with a coded error.
        failures: One line each, no two of one cause.
    """

    inputs: int = 0
    refused: int = 0
    failures: list[str] = field(default_factory=list)


class TooSlowError(BaseException):
    """Raised in the middle of whatever takes too long; no ``except Exception`` stops it."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--slow", type=float, default=SECONDS, help="seconds that reading one file may take")
    parser.add_argument("--only", help="kinds whose name holds this text")
    arguments = parser.parse_args()
    targets = [target for target in TARGETS if not arguments.only or arguments.only in target.name]
    with tempfile.TemporaryDirectory(prefix="mmbuild-fuzz-") as place:
        counts = fuzz(targets, arguments.seconds, arguments.seed, Path(place), arguments.slow)
    print("| file | damaged copies | refused with a code | failures |\n|---|---|---|---|")
    for name, count in counts.items():
        print(f"| {name} | {count.inputs} | {count.refused} | {len(count.failures)} |")
    failures = [line for count in counts.values() for line in count.failures]
    print(f"\n{sum(count.inputs for count in counts.values())} damaged files, {len(failures)} failures")
    for line in failures:
        print(line)
    return 1 if failures else 0


def fuzz(
    targets: Sequence[Target], seconds: float, number: int, place: Path, slow: float = SECONDS
) -> dict[str, Count]:
    """Fuzz each of ``targets`` for its share of ``seconds``, all inputs drawn from seed ``number``.

    Args:
        targets: Kinds of files.
        seconds: CPU time for all of them together, without making the world, so that a busy machine tries as many
            inputs as an idle one.
        number: Seed; the same one draws the same inputs, however many fit into the time.
        place: An empty directory.
        slow: Seconds that reading one file may take.
    """
    (place / "world").mkdir()
    make_world(place / "world")
    for name in HEAVY:
        importlib.import_module(name)
    counts = {}
    for target in targets:
        counts[target.name] = _in_process(target, seconds / len(targets), number, place, slow)
    return counts


def _in_process(target: Target, seconds: float, number: int, place: Path, slow: float) -> Count:
    """Fuzz one kind in a child: what hangs or crashes there ends there."""
    result = place / "result"
    result.unlink(missing_ok=True)
    (place / "input").write_bytes(b"")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            _child(target, seconds, number, place, slow)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    ended = _wait(child, place / "input")
    count = Count(**json.loads(result.read_text())) if result.is_file() else Count()
    if ended:
        count.failures.append(_kept(target, (place / "input").read_bytes(), ended))
    return count


def _wait(child: int, heartbeat: Path) -> str:
    """How the child ended badly; empty where it did not."""
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return "" if status == 0 else f"the process ended with status {status}"
        if time.time() - heartbeat.stat().st_mtime > _STUCK:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return f"no answer for {_STUCK} s"
        time.sleep(0.05)


def _child(target: Target, seconds: float, number: int, place: Path, slow: float) -> None:
    world = place / "copy"
    shutil.rmtree(world, ignore_errors=True)
    shutil.copytree(place / "world", world, symlinks=True)
    environment = world_environment(world)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(world)
    # What reads from the terminal finds nothing there.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    signal.signal(signal.SIGALRM, _too_slow)
    _warm_up(target, world)
    whole = place / "whole"
    shutil.rmtree(whole, ignore_errors=True)
    shutil.copytree(world, whole, symlinks=True)
    count, seen = Count(), set[str]()
    until = _spent() + seconds
    while not count.inputs or _spent() < until:
        _limit_memory()  # from here on, whatever the fuzzer itself keeps
        _batch(target, place, world, number, until, count, seen, slow)
        number += 1
        (place / "result").write_text(json.dumps(asdict(count)))


def _spent() -> float:
    """Seconds of CPU that this process and those that it has waited for took."""
    return sum(os.times()[:4])


def _batch(
    target: Target,
    place: Path,
    world: Path,
    number: int,
    until: float,
    count: Count,
    seen: set[str],
    slow: float,
) -> None:
    paths = sorted(world.glob(target.pattern))
    path = paths[number % len(paths)]
    whole = path.read_bytes()

    @seed(number)
    @settings(
        max_examples=_BATCH,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        derandomize=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(mutants(target.form, whole))
    def each(data: bytes) -> None:
        if count.inputs and _spent() > until:
            return
        (place / "input").write_bytes(data)
        count.inputs += 1
        with _damaged(world, path, data, place / "whole"):
            problem, refused = _read(target, world, slow)
        count.refused += refused
        if problem and problem not in seen:
            seen.add(problem)
            count.failures.append(_kept(target, data, problem))

    each()


@contextmanager
def _damaged(world: Path, path: Path, data: bytes, whole: Path) -> Iterator[None]:
    """``path`` with other bytes; afterwards the world is as it was."""
    mode = path.stat().st_mode
    path.unlink()
    path.write_bytes(data)
    path.chmod(mode)
    try:
        yield
    finally:
        place = path.relative_to(world)
        if place.parts[0] in ("store", "shared"):
            shutil.rmtree(world / place.parts[0], ignore_errors=True)
            shutil.copytree(whole / place.parts[0], world / place.parts[0], symlinks=True)
        else:
            path.unlink(missing_ok=True)
            shutil.copy2(whole / place, path)


def _read(target: Target, world: Path, slow: float) -> tuple[str, bool]:
    """What went wrong (empty: nothing), and whether any reader refused."""
    refused = False
    for probe in target.probes:
        if target.statuses == (0,):
            shutil.rmtree(world / "store", ignore_errors=True)  # a pull into an empty store
        signal.setitimer(signal.ITIMER_REAL, slow)
        try:
            problem, coded = _call(probe, world) if callable(probe) else _command(probe, target.statuses)
        except TooSlowError:
            problem, coded = f"more than {slow:g} s in {_where(sys.exc_info()[1])}", False
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        refused |= coded
        if problem:
            shown = "a function" if callable(probe) else f"`mmbuild {' '.join(probe)}`"
            return f"{shown}: {problem}", refused
    return "", refused


def _call(probe: Any, world: Path) -> tuple[str, bool]:
    from mmbuild.base.errors import MmbuildError

    try:
        probe(world)
    except MmbuildError:
        return "", True
    except Exception as error:
        return f"{type(error).__name__} in {_where(error)}", False
    return "", False


def _command(arguments: Sequence[str], statuses: Sequence[int]) -> tuple[str, bool]:
    from mmbuild.cli import main as command

    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", errors="strict", write_through=True) for _ in "oe")
    try:
        with redirect_stdout(out), redirect_stderr(err):
            status = command(list(arguments))
    except Exception as error:
        return f"{type(error).__name__} in {_where(error)}", False
    said = err.buffer.getvalue().decode(errors="replace")  # type: ignore[attr-defined]
    if "bug in mmbuild" in said or "Traceback" in said:
        line = next((line for line in said.splitlines() if line.startswith("error:")), said[-300:])
        return f"status {status}, {_shortened(line)}", False
    if status not in statuses:
        return f"status {status}, {_shortened(said.strip()[-300:])}", False
    return "", status != 0


def _warm_up(target: Target, world: Path) -> None:
    """Import everything before memory is limited and time is taken; the undamaged world must be taken."""
    problem, _ = _read(target, world, 0)
    if problem:
        raise SystemExit(f"{target.name}, undamaged: {problem}")


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _too_slow(*_: object) -> None:
    raise TooSlowError


def _where(error: BaseException | None) -> str:
    frames = traceback.extract_tb(error.__traceback__) if error is not None else []
    own = [frame for frame in frames if "mmbuild" in frame.filename] or frames
    return f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else "?"


def _shortened(text: str) -> str:
    """One line without what differs from input to input."""
    return " ".join(text.split())[:200]


def _kept(target: Target, data: bytes, problem: str) -> str:
    KEPT.mkdir(parents=True, exist_ok=True)
    name = f"{target.name.replace(' ', '-').replace('/', '-')}-{len(list(KEPT.iterdir()))}"
    (KEPT / name).write_bytes(data)
    return f"{target.name}: {problem} (the file: {KEPT / name})"


if __name__ == "__main__":
    sys.exit(main())
