"""What an engine of backend tensorrt-llm needs to load, compared with this host. Nothing is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mmbuild.backends.compatibility import REBUILD, TENSORRT_RULE, UNRECORDED, check, gpu_checks
from mmbuild.backends.engine_dir.description import Description
from mmbuild.backends.environments.probe import ProbeError, installed, normalized
from mmbuild.backends.environments.versions import version_of
from mmbuild.backends.tensorrt_llm.toolchains.load import pinned_distributions
from mmbuild.base.checks import Check
from mmbuild.base.gpu import Gpu
from mmbuild.config.load import load


def probe_environment(description: Description) -> Mapping[str, str] | None:
    """Versions by normalized name in the environment that the engine runs in; None where none that answers is
    configured.

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
    """What the engine needs, compared with this host.

    Args:
        description: What ``engine.json`` says.
        gpus: GPUs of this host; None where no driver answers.
        inside: From :func:`probe_environment`.
    """
    # `tensorrt-llm` is the toolchain; what was installed is named with underscores.
    line = description.toolchain.get("tensorrt-llm", UNRECORDED)
    built = {normalized(name): version for name, version in description.toolchain.items() if "-" not in name}
    yield _installed("tensorrt-llm", built.get("tensorrt-llm"), line, inside)
    yield _tensorrt(version_of("tensorrt", built), inside)
    yield from gpu_checks(description, gpus)


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
    return check(name, found == exact, found, wanted, "the runtime refuses engines of another release", way)


def _tensorrt(built: str | None, inside: Mapping[str, str] | None) -> Check:
    found = None if inside is None else version_of("tensorrt", inside)
    if built is None:
        return Check("tensorrt", "unknown", found or "not known", "not written down", TENSORRT_RULE)
    if inside is None:
        return Check("tensorrt", "unknown", "not known", built, TENSORRT_RULE)
    return check("tensorrt", found == built, found or "not installed", built, TENSORRT_RULE, REBUILD)
