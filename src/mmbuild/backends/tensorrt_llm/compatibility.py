"""Compares what an engine of backend tensorrt-llm needs with this host. Nothing is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mmbuild.backends import compatibility as shared
from mmbuild.backends.compatibility import REBUILD, TENSORRT_RULE, UNRECORDED, check, gpu_checks
from mmbuild.backends.engine_dir.description import Description
from mmbuild.backends.environments.probe import ProbeError, installed, normalized
from mmbuild.backends.environments.versions import version_of
from mmbuild.backends.tensorrt_llm.toolchains.gpu_formats import tables
from mmbuild.backends.tensorrt_llm.toolchains.load import pinned_distributions
from mmbuild.base.checks import Check
from mmbuild.base.gpu import Gpu
from mmbuild.config.load import load
from mmbuild.schema.tensorrt_llm_versions import SUPPORTED


def probe_environment(description: Description) -> Mapping[str, str] | None:
    """Versions by normalized name in the environment that runs the engine; None if none is configured or it does not
    respond.

    Raises:
        MmbuildError: The user's configuration cannot be read.
    """
    environment = load().toolchains.get(description.toolchain.get("tensorrt-llm", ""))
    try:
        return None if environment is None else installed(environment, pinned_distributions())
    except ProbeError:
        return None


def compatibility(
    description: Description, gpus: tuple[Gpu, ...] | None, inside: Mapping[str, str] | None
) -> Iterator[Check]:
    """Checks what the engine needs on this host.

    Args:
        description: Contents of ``engine.json``.
        gpus: GPUs of this host; None if no driver responds.
        inside: From :func:`probe_environment`.
    """
    # `tensorrt-llm` is the toolchain's version; installed distributions are recorded with underscores.
    line = description.toolchain.get("tensorrt-llm", UNRECORDED)
    built = {normalized(name): version for name, version in description.toolchain.items() if "-" not in name}
    yield _installed("tensorrt-llm", built.get("tensorrt-llm"), line, inside)
    yield _tensorrt(version_of("tensorrt", built), inside)
    yield from gpu_checks(description, gpus, cuda_of(description.toolchain))


def cuda_of(versions: Mapping[str, str]) -> tuple[int, str] | None:
    """As :func:`mmbuild.backends.compatibility.cuda_of`; if that is unknown, the CUDA version of the toolchain."""
    found, line = shared.cuda_of(versions), versions.get("tensorrt-llm", "")
    known = tables(line).cuda if line in SUPPORTED else None
    if found is not None or known is None:
        return found
    return known.version, f"TensorRT-LLM {line}: {known.evidence}"


def _installed(name: str, exact: str | None, line: str, inside: Mapping[str, str] | None) -> Check:
    """TensorRT-LLM itself: the release that built the engine if recorded, else the toolchain's version line."""
    required = exact or f"{line} (the exact release was not recorded)"
    hint = f"set its environment with `mmbuild config set-toolchain {line}`"
    if inside is None:
        return Check(
            name,
            "fail",
            "no working environment is configured",
            required,
            "the engine's runner needs one",
            hint,
        )
    found = inside.get(name, "not installed")
    if exact is None:
        return Check(name, "unknown", found, required, "an engine depends on the release that built it")
    return check(
        name, found == exact, found, required, "the runtime refuses engines of another release", hint
    )


def _tensorrt(built: str | None, inside: Mapping[str, str] | None) -> Check:
    found = None if inside is None else version_of("tensorrt", inside)
    if built is None:
        return Check("tensorrt", "unknown", found or "unknown", "not recorded", TENSORRT_RULE)
    if inside is None:
        return Check("tensorrt", "unknown", "unknown", built, TENSORRT_RULE)
    return check("tensorrt", found == built, found or "not installed", built, TENSORRT_RULE, REBUILD)
