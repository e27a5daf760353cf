"""Selects the Python that runs TensorRT: the one from the user's configuration, else this one if it has TensorRT."""

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

# The wheel `tensorrt` depends on one of the others, which can also be installed alone.
DISTRIBUTIONS = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12")


def find() -> Interpreter:
    """The interpreter to use.

    Raises:
        TensorRTError: MM565, there is none.
        MmbuildError: The user's configuration cannot be read.
    """
    configured = load().tensorrt
    if configured is not None:
        return configured
    if installed_versions(DISTRIBUTIONS):
        # Launching removes these variables to protect foreign Pythons.
        variables = {"PYTHONNOUSERSITE": ""}
        if "PYTHONPATH" in os.environ:
            variables["PYTHONPATH"] = os.environ["PYTHONPATH"]
        return Interpreter(python=Path(sys.executable), variables=variables)
    raise TensorRTError(
        "the visual engine needs TensorRT, but this Python has no `tensorrt` and the configuration names no other "
        "Python",
        code="MM565",
        hint=f"{install_hint('tensorrt')}, or name a Python that has it with `mmbuild config set-tensorrt --python`, "
        "or set visual.backend to torch",
    )


def version(interpreter: Interpreter) -> str:
    """The TensorRT version of ``interpreter``: the wheel's version without the ``.post`` suffix.

    Raises:
        TensorRTError: MM566, it has none.
        ProbeError: The interpreter cannot be probed.
    """
    versions = interpreter_versions(interpreter, DISTRIBUTIONS)
    for name in DISTRIBUTIONS:
        if name in versions:
            return versions[name].partition(".post")[0]
    raise TensorRTError(
        f"`{interpreter.python}` has no `tensorrt`",
        code="MM566",
        hint="install tensorrt there, or name another Python with `mmbuild config set-tensorrt`",
    )


def check_dtype(version: str, dtype: str) -> None:
    """Check that TensorRT ``version`` supports ``dtype``.

    Raises:
        TensorRTError: MM567, the version is not supported, or does not support the number format.
    """
    numbers = tuple(int(part) for part in version.split(".")[:2])
    api = program.APIS.get(numbers[0])
    if api is None or numbers < program.OLDEST:
        raise TensorRTError(
            f"TensorRT {version} is not one of 8.6, 10 and 11",
            code="MM567",
            hint="install one of those, or set visual.backend to torch",
        )
    if dtype not in api.precision_flags:
        raise TensorRTError(
            f"TensorRT {version} does not support {dtype} networks",
            code="MM567",
            hint="set visual.dtype to float16, or use TensorRT 10 or 11",
        )


def start(interpreter: Interpreter, gpus: Sequence[str] = ()) -> Launch:
    """Command line and environment of the program; ``gpus``: UUIDs, default all visible ones."""
    environment = ToolchainEnvironment(
        python=interpreter.python, examples=Path("/"), variables=interpreter.variables
    )
    argv = ("python3", str(Path(program.__file__).absolute()))
    return launch(environment, argv, workdir=Path("/"), gpus=gpus)
