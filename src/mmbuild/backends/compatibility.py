"""What engines of several backends need of a host: GPUs and their driver.

A check's ``wanted`` is what an engine needs, its ``found`` what this host has.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from mmbuild.backends.engine_dir.description import Description
from mmbuild.backends.environments.versions import accepts
from mmbuild.base.checks import Check
from mmbuild.base.gpu import Gpu

_LOCAL = re.compile(r"\+cu(\d+)\d$")  # torch's builds for CUDA: 2.11.0+cu130
_NAMED = re.compile(r"[-_]cu(\d+)$")  # distributions for one CUDA: tensorrt-cu12


def cuda_of(versions: Mapping[str, str]) -> tuple[int, str] | None:
    """The CUDA major version that a build was made with, and how that is known; None where it is not.

    Args:
        versions: A description's ``toolchain``: name to version.
    """
    local = _LOCAL.search(versions.get("torch", ""))
    if local is not None:
        return int(local[1]), f"torch {versions['torch']}"
    named = {int(match[1]): name for name in versions if (match := _NAMED.search(name))}
    if len(named) == 1:
        ((major, name),) = named.items()
        return major, f"{name} is installed where it was built"
    entry = _table()["toolchains"].get(versions.get("tensorrt-llm", ""))
    return (entry["cuda"], f"TensorRT-LLM {versions['tensorrt-llm']}: {entry['evidence']}") if entry else None


def lowest_driver(cuda: int) -> str | None:
    """The lowest driver for programs of a CUDA major version; None where the table has none."""
    found: str | None = _table()["drivers"].get(cuda)
    return found


@cache
def _table() -> Mapping[str, Any]:
    text = (files("mmbuild.backends") / "drivers.yaml").read_text(encoding="utf-8")
    loaded: Mapping[str, Any] = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return loaded


REBUILD = "Apply its recipe on a machine like that, or build it for this one"
UNRECORDED = "a version that was not recorded"
SM_RULE = "engines do not move between SMs"
TENSORRT_RULE = (
    "an engine loads only in the TensorRT that built it (version-compatible engines are an option of the builder "
    "that the commands do not set)"
)


def gpu_checks(description: Description, visible: tuple[Gpu, ...] | None) -> Iterator[Check]:
    """The GPUs and the driver that an engine for CUDA needs.

    Args:
        description: What ``engine.json`` says.
        visible: GPUs of this host; None where no driver answers.
    """
    gpus, sm = visible or (), description.target.get("sm")
    found = ", ".join(f"SM {gpu.sm}" for gpu in gpus) or ("no GPU" if visible is not None else "no driver")
    ranks = tensor_parallel(description)
    fitting = [gpu for gpu in gpus if sm is None or gpu.sm == sm]
    if sm is None:
        yield Check("gpu", "unknown", found, "an SM that was not written down", SM_RULE)
    else:
        yield check("gpu", bool(fitting), found, f"SM {sm}, exactly", SM_RULE, REBUILD)
    if ranks > 1:
        text = f"{len(fitting)} of that kind"
        yield check("ranks", len(fitting) >= ranks, text, f"{ranks} GPUs", "each rank takes one", REBUILD)
    yield _driver(cuda_of(description.toolchain), gpus)


def _driver(cuda: tuple[int, str] | None, gpus: tuple[Gpu, ...]) -> Check:
    found = gpus[0].driver if gpus else "none"
    lowest = lowest_driver(cuda[0]) if cuda is not None else None
    if cuda is None or lowest is None:
        return Check(
            "driver", "unknown", found, "not known", "which CUDA it was built with was not written down"
        )
    why = f"the lowest for CUDA {cuda[0]} ({cuda[1]})"
    way = "Install a newer driver; older CUDA runs on it as well"
    return check(
        "driver", bool(gpus) and accepts(f">={lowest}", found) is True, found, f"{lowest} or newer", why, way
    )


def tensor_parallel(description: Description) -> int:
    """Ranks that an engine is split over."""
    return int(description.llm.get("tensor_parallel", 1))


def check(name: str, fits: bool, found: str, wanted: str, why: str, way: str) -> Check:
    """A check that fails, with its reason and what to do, unless ``fits``."""
    return Check(name, "ok", found, wanted) if fits else Check(name, "fail", found, wanted, why, way)
