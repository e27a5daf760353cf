"""mmbuild's own environment, as far as a plan depends on it: its packages, and what its torch runs on."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import metadata
from typing import Any

from packaging.version import Version

from mmbuild.base import pins
from mmbuild.base.errors import MmbuildError
from mmbuild.base.optional_packages import missing_package_error

PACKAGES = ("torch", "transformers")
"""What runs a model."""


class LowerError(MmbuildError):
    """A recipe that is right, and that this environment cannot build."""


def version(package: str) -> str:
    """What a lock in force says, or what is installed here.

    Raises:
        MissingPackageError: MM230, neither.
    """
    return pins.package(package) or _installed(package)


@cache
def _installed(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        raise missing_package_error(package, "the recipe") from None


FLOOR: Mapping[str, str] = {"cpu": "2.13", "cuda": "2.11"}
"""The oldest torch that engines were built and run with, by device."""


def compiler(target: Mapping[str, Any]) -> str:
    """The version of torch that compiles for ``target``.

    Raises:
        MissingPackageError: MM230, torch is missing.
        LowerError: MM231, it is older than engines for this device were ever built with.
    """
    found, floor = version("torch"), FLOOR[target["device"]]
    if Version(found) < Version(floor):
        raise LowerError(
            f"torch {found} is installed, and engines for `{target['device']}` are built with torch {floor} or later",
            code="MM231",
            hint=f"pip install 'torch>={floor},<2.14'",
        )
    return found


def target(host: Mapping[str, Any]) -> dict[str, Any]:
    """``{"device", "sm", "isa"}`` of what torch runs on here: a GPU beside a torch for CPUs is none.

    Args:
        host: As :func:`mmbuild.base.host.default_target` gives it; ``sm`` may be that of a GPU that torch cannot use.
    """
    sm = None if host["device"] == "cpu" else host.get("sm")
    return {"device": host["device"], "sm": sm, "isa": host.get("isa")}
