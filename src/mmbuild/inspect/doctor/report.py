"""Which checks are made: of the host and every configured environment, or of what some recipes need."""

from __future__ import annotations

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
    """Make the checks.

    Args:
        config: The user's configuration.
        store: Directory of the store.
        build_dir: Where engine directories go.
        needed: What recipes need; None looks at the host and everything that is configured.
        quick: Build no package to try the compiler.
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
    yield software.python_check()
    every, wanted = needed is None, needed or Needs()
    software_needs = wanted.software
    # Where there is no GPU at all, the backend's own checks say so.
    ranks = software_needs.gpus_if_any if gpus else 0
    yield from hardware.gpu_checks(gpus, needed=max(software_needs.gpus, ranks), sms=wanted.sms)
    yield hardware.memory_check(wanted.memory)
    yield hardware.disk_check("store", store, wanted.disk)
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
    """Of the backends that the recipes use, or of all."""
    if needed is None:
        for name in names():
            yield from backend(name).host_checks(None, sm, config)
        return
    for name, variants in by_backend(needed.variants).items():
        yield from backend(name).host_checks(variants, sm, config)
