"""Loads and validates toolchain files."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import yaml

from mmbuild.backends.environments.probe import normalized
from mmbuild.backends.tensorrt_llm.toolchains.model import Toolchain
from mmbuild.schema.tensorrt_llm_versions import SUPPORTED, require


@cache
def load_toolchain(version: str) -> Toolchain:
    """The toolchain of ``version``.

    Raises:
        ToolchainError: MM601 or MM602, there is no such toolchain.
        pydantic.ValidationError: The file does not match the schema (a bug in mmbuild, caught by tests).
    """
    text = (files("mmbuild.backends.tensorrt_llm.toolchains") / f"{require(version)}.yaml").read_text(
        encoding="utf-8"
    )
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return Toolchain.model_validate(yaml.load(text, Loader=loader))


# In addition to what toolchains pin. s2wrapper: the distribution of scaling_on_scales, which VILA needs.
_FURTHER = ("tensorrt", "tensorrt-cu12", "tensorrt-cu13", "mpi4py", "numpy", "s2wrapper", "cuda-python")


@cache
def pinned_distributions() -> tuple[str, ...]:
    """Normalized names of all distributions that a supported toolchain pins."""
    names = {normalized(name) for version in SUPPORTED for name in load_toolchain(version).pins}
    return tuple(sorted(names | set(_FURTHER)))
