"""Host checks that engines of several backends share: GPUs and their driver.

A check's ``required`` is what the engine needs, its ``found`` what this host has.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files

import yaml

from mmbuild.backends.engine_dir.description import Description
from mmbuild.backends.environments.versions import accepts
from mmbuild.base.checks import Check
from mmbuild.base.gpu import Gpu

_LOCAL = re.compile(r"\+cu(\d+)\d$")  # CUDA builds of torch: 2.11.0+cu130
_NAMED = re.compile(r"[-_]cu(\d+)$")  # distributions for one CUDA version: tensorrt-cu12


def cuda_of(versions: Mapping[str, str]) -> tuple[int, str] | None:
    """The CUDA major version that an engine was built with and the evidence for it; None if unknown.

    Args:
        versions: A description's ``toolchain``: name to version.
    """
    local = _LOCAL.search(versions.get("torch", ""))
    if local is not None:
        return int(local[1]), f"torch {versions['torch']}"
    named = {int(match[1]): name for name in versions if (match := _NAMED.search(name))}
    if len(named) == 1:
        ((major, name),) = named.items()
        return major, f"{name} was installed where the engine was built"
    return None


def lowest_driver(cuda: int) -> str | None:
    """The lowest driver version that runs a CUDA major version; None if the table has no entry."""
    return _drivers().get(cuda)


@cache
def _drivers() -> Mapping[int, str]:
    text = (files("mmbuild.backends") / "drivers.yaml").read_text(encoding="utf-8")
    loaded: Mapping[int, str] = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return loaded


REBUILD = "apply its recipe on a matching machine, or build it for this one"
UNRECORDED = "a version that was not recorded"
SM_RULE = "engines are not portable between SMs"
TENSORRT_RULE = (
    "an engine loads only in the TensorRT version that built it (the commands do not set the builder's option for "
    "version-compatible engines)"
)


def gpu_checks(
    description: Description, visible: tuple[Gpu, ...] | None, cuda: tuple[int, str] | None
) -> Iterator[Check]:
    """Checks of the GPUs and the driver that a CUDA engine needs.

    Args:
        description: Contents of ``engine.json``.
        visible: GPUs of this host; None if no driver responds.
        cuda: From :func:`cuda_of`.
    """
    gpus, sm = visible or (), description.target.get("sm")
    found = ", ".join(f"SM {gpu.sm}" for gpu in gpus) or ("no GPU" if visible is not None else "no driver")
    ranks = tensor_parallel(description)
    matching = [gpu for gpu in gpus if sm is None or gpu.sm == sm]
    if sm is None:
        yield Check("gpu", "unknown", found, "an SM that was not recorded", SM_RULE)
    else:
        yield check("gpu", bool(matching), found, f"SM {sm}, exactly", SM_RULE, REBUILD)
    if ranks > 1:
        text = f"{len(matching)} matching"
        yield check(
            "ranks", len(matching) >= ranks, text, f"{ranks} GPUs", "each rank needs its own", REBUILD
        )
    yield _driver(cuda, gpus)


def _driver(cuda: tuple[int, str] | None, gpus: tuple[Gpu, ...]) -> Check:
    found = gpus[0].driver if gpus else "none"
    lowest = lowest_driver(cuda[0]) if cuda is not None else None
    if cuda is None or lowest is None:
        return Check("driver", "unknown", found, "unknown", "the CUDA version of the build was not recorded")
    why = f"the minimum for CUDA {cuda[0]} ({cuda[1]})"
    hint = "install a newer driver; it also runs older CUDA versions"
    return check(
        "driver", bool(gpus) and accepts(f">={lowest}", found) is True, found, f"{lowest} or newer", why, hint
    )


def tensor_parallel(description: Description) -> int:
    """Number of ranks that the engine is split over."""
    return int(description.llm.get("tensor_parallel", 1))


def check(name: str, fits: bool, found: str, required: str, why: str, hint: str) -> Check:
    """A check that passes if ``fits``, else fails with its reason and remedy."""
    return Check(name, "ok", found, required) if fits else Check(name, "fail", found, required, why, hint)
