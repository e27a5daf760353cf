"""The distributions whose versions matter in a toolchain's environment."""

from __future__ import annotations

from functools import cache

from mmbuild.backends.environments.probe import normalized
from mmbuild.backends.tensorrt_llm.toolchains.load import load_toolchain
from mmbuild.schema.tensorrt_llm_versions import SUPPORTED

# Besides what toolchains pin. s2wrapper: the distribution of scaling_on_scales, which VILA needs.
_FURTHER = ("tensorrt", "tensorrt-cu12", "tensorrt-cu13", "mpi4py", "numpy", "s2wrapper", "cuda-python")


@cache
def pinned_distributions() -> tuple[str, ...]:
    """Every distribution that a supported toolchain pins, normalized."""
    names = {normalized(name) for version in SUPPORTED for name in load_toolchain(version).pins}
    return tuple(sorted(names | set(_FURTHER)))
