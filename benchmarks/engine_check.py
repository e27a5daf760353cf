"""What checking an engine directory adds to the start of `run`, at the sizes of LLaVA-1.5-7B in fp16.

    python -m benchmarks.engine_check

The directory holds weights of 14 GB (sparse files: hashing reads them all the same), three packages of 2 MB and 40
small files. Each start is a process of its own; the time is that of importing the check and making it. Lowest of 15
starts: 9d5f9bf made no check, so all of it is new.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.report import Row, machine, milliseconds, table
from mmbuild.core.store.hashing import hash_file

_LARGE = {"llm/rank0.safetensors": 13_500_000_000, "visual/visual.safetensors": 620_000_000}
_SMALL = {
    **dict.fromkeys(("llm/prefill.pt2", "llm/decode.pt2", "visual/layers.pt2"), 2_000_000),
    **{f"processor/{number}.json": 10_000 for number in range(40)},
}
_START = """
import sys, time
from pathlib import Path
begin = time.perf_counter()
from mmbuild.backends.engine_dir.contents import check
assert check(Path(sys.argv[1])) is None
print(time.perf_counter() - begin)
"""


def measure(repeat: int = 15) -> list[Row]:
    """One row for the first start of a directory, one for every later one."""
    with tempfile.TemporaryDirectory() as base:
        engine = Path(base) / "engine"
        _make(engine)
        first = _start(engine, base)
        later = min(_start(engine, base) for _ in range(repeat))
    return [
        Row("check of 14 GB, first start (hashes all of it)", milliseconds(first), "", ""),
        Row("check of 14 GB, later starts", milliseconds(later), "no check at 9d5f9bf", "+ 50 ms"),
    ]


def _make(engine: Path) -> None:
    for name, size in {**_LARGE, **_SMALL}.items():
        path = engine / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            if name in _LARGE:
                file.truncate(size)
            else:
                file.write(os.urandom(size))
    (engine / "engine.json").write_text("{}")
    names = [*_LARGE, *_SMALL, "engine.json"]
    files = {
        name: {"size": (engine / name).stat().st_size, "blake3": hash_file(engine / name)} for name in names
    }
    (engine / "manifest.json").write_text(json.dumps({"schema": 1, "files": files}))


def _start(engine: Path, base: str) -> float:
    done = subprocess.run(
        [sys.executable, "-c", _START, str(engine)],
        env={**os.environ, "XDG_CACHE_HOME": base},
        check=True,
        capture_output=True,
        text=True,
    )
    return float(done.stdout)


if __name__ == "__main__":
    print(machine())
    print(table(measure()))
