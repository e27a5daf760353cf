"""An interpreter in which a stand-in for TensorRT of a given version is installed, with a stand-in for the driver."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

from mmbuild.config.model import Interpreter
from support.steps import cache as step_cache

HERE = Path(__file__).parent
CONTRACTS = HERE.parents[2] / "contracts" / "tensorrt"
VERSIONS = tuple(sorted(path.stem for path in CONTRACTS.glob("*.json")))


@cache
def driver() -> Path:
    """Directory of the compiled driver."""

    def compiled(directory: Path) -> None:
        command = [
            "gcc",
            "-shared",
            "-fPIC",
            "-O1",
            "-o",
            str(directory / "libcuda.so.1"),
            str(HERE / "driver.c"),
        ]
        subprocess.run(command, check=True)

    return step_cache.once(
        step_cache.default_root(), "fake-driver", (HERE / "driver.c").read_text(), compiled
    )


def interpreter(room: Path, version: str = "8.6.0", **variables: str) -> Interpreter:
    """This Python with TensorRT ``version``; ``variables``: FAKE_FAULT and the like."""
    site = room / f"site-{version}"
    if not site.exists():
        information = site / f"tensorrt-{version}.dist-info"
        information.mkdir(parents=True)
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: tensorrt\nVersion: {version}\n")
    return Interpreter(
        python=Path(sys.executable),
        variables={
            "PYTHONPATH": os.pathsep.join([str(site), str(HERE / "site")]),
            "LD_LIBRARY_PATH": str(driver()),
            "FAKE_TENSORRT": str(CONTRACTS / f"{version}.json"),
            "OMP_NUM_THREADS": "1",
            **variables,
        },
    )
