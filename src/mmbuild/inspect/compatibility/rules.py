"""What a build needs to load, and whether this host has it.

A check's ``wanted`` is what the build needs, ``found`` what this host has.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from mmbuild.backends.engine_dir.description import Description
from mmbuild.backends.environments.probe import normalized
from mmbuild.backends.tensorrt_llm.checks.model import Check
from mmbuild.backends.tensorrt_llm.checks.requirements import version_of
from mmbuild.backends.tensorrt_llm.checks.versions import accepts
from mmbuild.base import host
from mmbuild.base.gpu import Gpu
from mmbuild.inspect.compatibility.host_facts import HostFacts

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
    text = (files("mmbuild.inspect.compatibility") / "drivers.yaml").read_text(encoding="utf-8")
    loaded: Mapping[str, Any] = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return loaded


_REBUILD = "Apply its recipe on a machine like that, or build it for this one"
_UNRECORDED = "a version that was not recorded"
_SM_RULE = "engines do not move between SMs"
_TENSORRT_WAY = "Name a Python that has it with `mmbuild config set-tensorrt`, or apply its recipe again"
_TENSORRT_RULE = (
    "an engine loads only in the TensorRT that built it (version-compatible engines are an option of the builder "
    "that the commands do not set)"
)


def compatibility(
    description: Description, here: HostFacts, visual: Mapping[str, Any] | None = None
) -> tuple[Check, ...]:
    """What the build of ``description`` needs, held against ``here``.

    Args:
        description: What ``engine.json`` says.
        here: From :func:`mmbuild.inspect.compatibility.host_facts.probe_host`.
        visual: From :func:`mmbuild.inspect.compatibility.host_facts.tensorrt_visual`.
    """
    if description.backend == "tensorrt-llm":
        return tuple(_toolchain_build(description, here))
    return (*_torch_build(description, here), *_visual(visual, here))


def _visual(visual: Mapping[str, Any] | None, here: HostFacts) -> Iterator[Check]:
    """A TensorRT visual engine beside the embedded engine."""
    if visual is None:
        return
    found, wanted = here.tensorrt, str(visual["version"])
    fits = found is not None and found.partition(".post")[0] == wanted
    yield _check("tensorrt (visual)", fits, found or "not configured", wanted, _TENSORRT_RULE, _TENSORRT_WAY)
    sms = [gpu.sm for gpu in here.gpus or ()]
    text = ", ".join(f"SM {sm}" for sm in sms) or "no GPU"
    yield _check("gpu (visual)", visual["sm"] in sms, text, f"SM {visual['sm']}, exactly", _SM_RULE, _REBUILD)


def _torch_build(description: Description, here: HostFacts) -> Iterator[Check]:
    wanted, found = description.toolchain.get("torch", _UNRECORDED), here.torch
    # The part behind the plus says how torch was built; packages do not depend on it.
    fits = found is not None and _public(found) == _public(wanted)
    why = "compiled packages load in the torch that compiled them"
    way = f"pip install 'torch=={_public(wanted)}', or apply its recipe again"
    yield _check("torch", fits, found or "not installed", wanted, why, way)
    if description.target["device"] == "cuda":
        yield from _on_gpus(description, here)
        return
    isa = str(description.target["isa"])
    fits = host.runs_on(isa, here.isa)
    yield _check("cpu", fits, here.isa, f"{isa} instructions", "its code was compiled for them", _REBUILD)
    yield from _ranks(description)


def _toolchain_build(description: Description, here: HostFacts) -> Iterator[Check]:
    # `tensorrt-llm` is the toolchain; what was installed is named with underscores.
    line = description.toolchain.get("tensorrt-llm", _UNRECORDED)
    built = {normalized(name): version for name, version in description.toolchain.items() if "-" not in name}
    inside = here.environment
    yield _installed("tensorrt-llm", built.get("tensorrt-llm"), line, inside)
    yield _tensorrt(version_of("tensorrt", built), inside)
    yield from _on_gpus(description, here)


def _installed(name: str, exact: str | None, line: str, inside: Mapping[str, str] | None) -> Check:
    """TensorRT-LLM itself: the version that built it where that is known, else the toolchain's line."""
    wanted = exact or f"{line} (which release was not written down)"
    way = f"`mmbuild config set-toolchain {line}` names where it is"
    if inside is None:
        return Check(
            name, "fail", "no environment that answers is configured", wanted, "its runner runs there", way
        )
    found = inside.get(name, "not installed")
    if exact is None:
        return Check(name, "unknown", found, wanted, "an engine names the release that built it")
    return _check(name, found == exact, found, wanted, "the runtime refuses engines of another release", way)


def _tensorrt(built: str | None, inside: Mapping[str, str] | None) -> Check:
    found = None if inside is None else version_of("tensorrt", inside)
    if built is None:
        return Check("tensorrt", "unknown", found or "not known", "not written down", _TENSORRT_RULE)
    if inside is None:
        return Check("tensorrt", "unknown", "not known", built, _TENSORRT_RULE)
    return _check("tensorrt", found == built, found or "not installed", built, _TENSORRT_RULE, _REBUILD)


def _on_gpus(description: Description, here: HostFacts) -> Iterator[Check]:
    gpus, sm = here.gpus or (), description.target.get("sm")
    found = ", ".join(f"SM {gpu.sm}" for gpu in gpus) or ("no GPU" if here.gpus is not None else "no driver")
    ranks = _tensor_parallel(description)
    fitting = [gpu for gpu in gpus if sm is None or gpu.sm == sm]
    if sm is None:
        yield Check("gpu", "unknown", found, "an SM that was not written down", _SM_RULE)
    else:
        yield _check("gpu", bool(fitting), found, f"SM {sm}, exactly", _SM_RULE, _REBUILD)
    if ranks > 1:
        text = f"{len(fitting)} of that kind"
        yield _check("ranks", len(fitting) >= ranks, text, f"{ranks} GPUs", "each rank takes one", _REBUILD)
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
    return _check(
        "driver", bool(gpus) and accepts(f">={lowest}", found) is True, found, f"{lowest} or newer", why, way
    )


def _ranks(description: Description) -> Iterator[Check]:
    ranks = _tensor_parallel(description)
    if ranks > 1:
        yield Check("ranks", "ok", "started by `mmbuild run`", f"{ranks} processes")


def _tensor_parallel(description: Description) -> int:
    return int(description.llm.get("tensor_parallel", 1))


def _check(name: str, fits: bool, found: str, wanted: str, why: str, way: str) -> Check:
    return Check(name, "ok", found, wanted) if fits else Check(name, "fail", found, wanted, why, way)


def _public(version: str) -> str:
    return version.partition("+")[0]
