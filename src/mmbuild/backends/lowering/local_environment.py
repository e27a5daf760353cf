"""The parts of mmbuild's own environment that plans depend on: package versions and the device of its torch."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import metadata
from typing import Any

from packaging.version import Version

from mmbuild.base.errors import MmbuildError
from mmbuild.base.optional_packages import missing_package_error
from mmbuild.base.pins import NO_PINS, Pins

PACKAGES = ("torch", "transformers")
"""Packages that run a model."""


class LowerError(MmbuildError):
    """A valid recipe that this environment cannot build."""


PLAN_WITH_LOCK = (
    "; to plan without it, run `mmbuild lock RECIPE` where it is installed, and add `--locked` here"
)
"""End of the hint about a missing package: planning only needs its version."""

_EXTRAS: Mapping[str, str] = {"compressed-tensors": "hf"}
"""The extra of mmbuild that installs a package, if it is not `torch`."""


def version(package: str, pins: Pins) -> str:
    """Version of a package: the pinned one, else the installed one.

    Raises:
        MissingPackageError: MM230, neither pinned nor installed.
    """
    return pins.package(package) or _installed(package)


@cache
def _installed(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        extra = _EXTRAS.get(package, "torch")
        raise missing_package_error(package, "the recipe", extra, PLAN_WITH_LOCK) from None


FLOOR: Mapping[str, str] = {"cpu": "2.13", "cuda": "2.11"}
"""The oldest supported torch by device: engines were built and run with it."""


def versions(pins: Pins) -> dict[str, str]:
    """:func:`version` of each of :data:`PACKAGES`."""
    return {package: version(package, pins) for package in PACKAGES}


def compiler(target: Mapping[str, Any], pins: Pins = NO_PINS) -> str:
    """The version of torch that compiles for ``target``.

    A pinned version only forms keys; that it is the installed one is checked where the lock is.

    Raises:
        MissingPackageError: MM230, torch is missing.
        LowerError: MM231, torch is too old for engines for this device.
    """
    installed, minimum = version("torch", pins), FLOOR[target["device"]]
    if pins.package("torch") is None and Version(installed) < Version(minimum):
        raise LowerError(
            f"torch {installed} is too old: engines for `{target['device']}` need torch {minimum} or later",
            code="MM231",
            hint=f"pip install 'torch>={minimum},<2.14'",
        )
    return installed


def target(host: Mapping[str, Any]) -> dict[str, Any]:
    """``{"device", "sm", "isa"}`` of the device torch uses here; a CPU-only torch ignores a GPU.

    Args:
        host: From :func:`mmbuild.base.host.default_target`; ``sm`` may be that of a GPU that torch cannot use.
    """
    sm = None if host["device"] == "cpu" else host.get("sm")
    return {"device": host["device"], "sm": sm, "isa": host.get("isa")}
