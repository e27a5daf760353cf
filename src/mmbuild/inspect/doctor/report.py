"""Which checks are made: of the host and every configured environment, or of what some recipes need."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mmbuild.backends.tensorrt_llm.checks.model import Check, Group
from mmbuild.base.gpu import Gpu, visible_gpus
from mmbuild.config.model import ToolchainEnvironment, UserConfig
from mmbuild.inspect.doctor import compiler, hardware, software
from mmbuild.inspect.doctor.recipe_requirements import Needs, ToolchainNeed


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
    return (*groups, *_toolchains(config, needed, sm))


def _host(
    config: UserConfig,
    gpus: tuple[Gpu, ...] | None,
    store: Path,
    build_dir: Path,
    needed: Needs | None,
    quick: bool,
) -> Iterator[Check]:
    yield software.python_check()
    wanted = needed or Needs(())
    # Where there is no GPU at all, a toolchain's own checks say so.
    ranks = max((need.ranks for need in wanted.toolchains.values()), default=0) if gpus else 0
    yield from hardware.gpu_checks(gpus, needed=max(wanted.gpus, ranks), sms=wanted.sms)
    yield hardware.memory_check(wanted.memory)
    yield hardware.disk_check("store", store, wanted.disk)
    yield hardware.disk_check("build directory", build_dir, 0)
    if needed is None or needed.torch or needed.fitted:
        yield from software.extra_checks("torch", needed=needed is not None)
    if wanted.optimizer:
        yield from software.extra_checks("quantize", needed=True)
    if needed is None or needed.torch:
        yield compiler.untried() if quick else compiler.compiler_check()
    if wanted.torch_ranks > 1:
        yield from software.extra_checks("mpi", needed=True)
        yield software.mpirun_check(wanted.torch_ranks)
    if needed is None:
        yield from software.script_checks()
    if needed is None or needed.tensorrt:
        yield from software.tensorrt_checks(config.tensorrt, needed=wanted.tensorrt)


def _toolchains(config: UserConfig, needed: Needs | None, sm: int | None) -> Iterator[Group]:
    from mmbuild.backends.tensorrt_llm.checks.toolchain import toolchain_checks

    if needed is None:
        asked = [(version, ToolchainNeed((), 1)) for version in config.toolchains]
    else:
        asked = list(needed.toolchains.items())
    for version, need in asked:
        environment = config.toolchains.get(version)
        checks = toolchain_checks(version, environment, sm=sm, ranks=need.ranks, families=need.families)
        yield Group(f"TensorRT-LLM {version}", (*_engine(environment), *checks))


def _engine(environment: ToolchainEnvironment | None) -> Iterator[Check]:
    if environment is not None and environment.container is not None:
        yield from software.engine_checks([environment.container.engine])
