"""The stand-in programs as files that can be started: a checkout with its scripts, and a directory for PATH."""

from __future__ import annotations

import sys
from pathlib import Path

from support import TESTS
from support.toolchain.strict_flags import contract

PROGRAM = """\
#!{python}
import os, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from support.toolchain.fake_tensorrt_llm.main import execute
from support.toolchain.strict_flags import RejectedError
try:
    execute({version!r}, {name!r}, sys.argv[1:], Path.cwd(), os.environ)
except RejectedError as error:
    sys.exit(f"error: unrecognized arguments: {{error}}")
"""

# One process plays all ranks.
MPIRUN = """\
#!/bin/sh
[ "$1" = -n ] || exit 2
STANDIN_RANKS=$2; export STANDIN_RANKS
shift 3
exec "$@"
"""


def install(version: str, root: Path) -> tuple[Path, Path]:
    """Writes them below ``root``.

    Returns:
        The checkout, and the directory that must come first in PATH.
    """
    checkout, programs = root / "TensorRT-LLM", root / "bin"
    for name in contract(version):
        place = checkout / name if "/" in name else programs / name
        text = PROGRAM.format(python=sys.executable, tests=str(TESTS), version=version, name=name)
        _write(place, text)
    _write(programs / "mpirun", MPIRUN)
    _write(programs / "python", f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    return checkout, programs


def _write(place: Path, text: str) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text, "utf-8")
    place.chmod(0o755)
