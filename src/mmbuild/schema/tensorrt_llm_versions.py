"""TensorRT-LLM versions that have a toolchain, and the errors for all others."""

from __future__ import annotations

import re

from mmbuild.base.errors import MmbuildError

SUPPORTED: tuple[str, ...] = ("0.9.0.dev2024040900", "0.9.0", "0.10.0", "0.12.0", "1.2")
"""Versions with a directory in ``mmbuild/backends/tensorrt_llm/toolchains``, oldest first."""

DEFAULT = "1.2"
"""The last release line that builds engines."""

PATTERN = r"^\d+\.\d+(\.\d+)?(\.?(dev|rc|post)\d+)*$"
"""Syntax of a version."""

# Release lines in order (upstream's release notes). Line numbers jump from 0.21 to 1.0, so "nearest" counts releases,
# not digits.
_LINES: tuple[tuple[int, int], ...] = (
    *((0, minor) for minor in range(5, 22)),
    *((1, minor) for minor in range(4)),
)


class ToolchainError(MmbuildError):
    """A toolchain does not exist, or does not support what the recipe requires."""


def require(version: str) -> str:
    """Return ``version`` if it has a toolchain.

    Raises:
        ToolchainError: MM601, an unsupported version; names the nearest supported one. MM602, a release that no
            longer builds engines.
    """
    if version in SUPPORTED:
        return version
    if not re.fullmatch(PATTERN, version):
        raise ToolchainError(
            f"`{version}` is not a version of TensorRT-LLM",
            code="MM601",
            hint=f"versions with a toolchain: {', '.join(SUPPORTED)}",
        )
    if _line(version) > _line(DEFAULT):
        raise ToolchainError(
            f"TensorRT-LLM {version} has no toolchain: releases after {DEFAULT} no longer have the commands that "
            "build TensorRT engines (removed upstream after 1.3.0rc20)",
            code="MM602",
            hint=f"use toolchain '{DEFAULT}' in its own environment, or --set engine.backend=torch",
        )
    raise ToolchainError(
        f"TensorRT-LLM {version} has no toolchain; the nearest version with one is {nearest(version)}",
        code="MM601",
        hint=f"versions with a toolchain: {', '.join(SUPPORTED)}",
    )


def nearest(version: str) -> str:
    """The supported version that is fewest releases away; of two, the newer."""
    place = _place(_line(version))
    return min(reversed(SUPPORTED), key=lambda known: abs(_place(_line(known)) - place))


def _line(version: str) -> tuple[int, int]:
    major, minor = re.findall(r"\d+", version)[:2]
    return int(major), int(minor)


def _place(line: tuple[int, int]) -> int:
    """Releases before ``line``."""
    return sum(known < line for known in _LINES)
