"""Selects the checks: of the host and every configured environment, or of what recipes require."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from pathlib import Path

from mmbuild.backends.table import backend
from mmbuild.base.checks import Check, Group
from mmbuild.base.gpu import Gpu, visible_gpus
from mmbuild.config.model import UserConfig
from mmbuild.inspect.doctor import compiler, hardware, software
from mmbuild.inspect.doctor.recipe_requirements import Needs, by_backend
from mmbuild.schema.backend_names import names


def report(
    config: UserConfig, *, store: Path, build_dir: Path, needed: Needs | None = None, quick: bool = False
) -> tuple[Group, ...]:
    """Run the checks.

    Args:
        config: The user's configuration.
        store: Store directory.
        build_dir: Directory for the engine directories.
        needed: Requirements of recipes; None checks the host and everything that is configured.
        quick: Skip the test compile.
    """
    gpus = visible_gpus()
    groups = [Group("host", tuple(_host(config, gpus, store, build_dir, needed, quick)))]
    sm = gpus[0].sm if gpus else None
    return (*groups, *_environments(config, needed, sm))


def _host(
    config: UserConfig,
    gpus: tuple[Gpu, ...] | None,
    store: Path,
    build_dir: Path,
    needed: Needs | None,
    quick: bool,
) -> Iterator[Check]:
    yield Check("python", "ok", platform.python_version())
    every, required = needed is None, needed or Needs()
    software_needs = required.software
    # If there is no GPU at all, the checks of the backend report it.
    ranks = software_needs.gpus_if_any if gpus else 0
    yield from hardware.gpu_checks(gpus, needed=max(software_needs.gpus, ranks), sms=required.sms)
    yield hardware.memory_check(required.memory)
    yield hardware.disk_check("store", store, required.disk)
    yield hardware.disk_check("build directory", build_dir, 0)
    for extra in ("torch",) if every else software_needs.extras:
        yield from software.extra_checks(extra, needed=not every)
    if every or software_needs.compiler:
        yield compiler.untried() if quick else compiler.compiler_check()
    if software_needs.ranks > 1:
        yield from software.extra_checks("mpi", needed=True)
        yield software.mpirun_check(software_needs.ranks)
    if needed is None:
        yield from software.script_checks()
    if every or software_needs.tensorrt:
        yield from software.tensorrt_checks(config.tensorrt, needed=software_needs.tensorrt)


def _environments(config: UserConfig, needed: Needs | None, sm: int | None) -> Iterator[Group]:
    """Checks of the backends that the recipes use, or of all backends."""
    if needed is None:
        for name in names():
            yield from backend(name).host_checks(None, sm, config)
        return
    for name, variants in by_backend(needed.variants).items():
        yield from backend(name).host_checks(variants, sm, config)
