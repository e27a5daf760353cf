"""Which Python runs TensorRT: the one that the user's configuration names, else this one where it has TensorRT."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from mmbuild.backends.environments.launch import Launch, launch
from mmbuild.backends.environments.probe import interpreter_versions
from mmbuild.backends.tensorrt import program
from mmbuild.backends.tensorrt.errors import TensorRTError
from mmbuild.base.host import installed_versions
from mmbuild.base.optional_packages import install_hint
from mmbuild.config.load import load
from mmbuild.config.model import Interpreter, ToolchainEnvironment

# The wheel `tensorrt` brings one of the others; whoever installed only those has no wheel of that name.
DISTRIBUTIONS = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12")


def find() -> Interpreter:
    """The interpreter to use.

    Raises:
        TensorRTError: MM565, there is none.
        MmbuildError: The user's configuration cannot be read.
    """
    named = load().tensorrt
    if named is not None:
        return named
    if installed_versions(DISTRIBUTIONS):
        # What launching would take away so that no variable of ours leads a foreign Python astray.
        ours = {"PYTHONNOUSERSITE": ""}
        if "PYTHONPATH" in os.environ:
            ours["PYTHONPATH"] = os.environ["PYTHONPATH"]
        return Interpreter(python=Path(sys.executable), variables=ours)
    raise TensorRTError(
        "the visual engine is TensorRT's, and neither this Python has `tensorrt` nor does the configuration name "
        "one that has",
        code="MM565",
        hint=f"{install_hint('tensorrt')}, or `mmbuild config set-tensorrt --python` with an interpreter that "
        "has it, or set visual.backend to torch",
    )


def version(interpreter: Interpreter) -> str:
    """The TensorRT version that ``interpreter`` has, as the wheel says without ``.post`` and what follows.

    Raises:
        TensorRTError: MM566, it has none.
        ProbeError: It cannot be asked.
    """
    found = interpreter_versions(interpreter, DISTRIBUTIONS)
    for name in DISTRIBUTIONS:
        if name in found:
            return found[name].partition(".post")[0]
    raise TensorRTError(
        f"`{interpreter.python}` has no `tensorrt`",
        code="MM566",
        hint="Install tensorrt there, or name another Python with `mmbuild config set-tensorrt`",
    )


def check_dtype(version: str, dtype: str) -> None:
    """Refuse what TensorRT ``version`` cannot build.

    Raises:
        TensorRTError: MM567, not a version that the program knows, or one without that number format.
    """
    numbers = tuple(int(part) for part in version.split(".")[:2])
    api = program.APIS.get(numbers[0])
    if api is None or numbers < program.OLDEST:
        raise TensorRTError(
            f"TensorRT {version} is not one of 8.6, 10 and 11",
            code="MM567",
            hint="Install one of those, or set visual.backend to torch",
        )
    if dtype not in api.precision_flags:
        raise TensorRTError(
            f"TensorRT {version} builds no {dtype} networks",
            code="MM567",
            hint="Set visual.dtype to float16, or use TensorRT 10 or 11",
        )


def start(interpreter: Interpreter, gpus: Sequence[str] = ()) -> Launch:
    """Argv and environment of the program in ``interpreter``; ``gpus``: UUIDs, all that are visible where empty."""
    alone = ToolchainEnvironment(
        python=interpreter.python, examples=Path("/"), variables=interpreter.variables
    )
    return launch(alone, ("python3", str(Path(program.__file__).absolute())), workdir=Path("/"), gpus=gpus)
