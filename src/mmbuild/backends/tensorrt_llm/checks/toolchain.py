"""Checks the environment of a TensorRT-LLM version against the version's requirements."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from mmbuild.backends.environments import probe
from mmbuild.backends.environments.probe import InstalledPackages, ProbeError
from mmbuild.backends.environments.programs import program_check
from mmbuild.backends.environments.versions import accepts, names_for, specifiers, version_of
from mmbuild.backends.tensorrt_llm.checks.examples import examples_check
from mmbuild.backends.tensorrt_llm.checks.requirements import (
    RequiredPackage,
    distributions,
    programs,
    requirements,
)
from mmbuild.backends.tensorrt_llm.toolchains.load import load_toolchain
from mmbuild.backends.tensorrt_llm.toolchains.model import Toolchain
from mmbuild.base.checks import Check, Status
from mmbuild.config.model import ToolchainEnvironment

_OWN = "tensorrt-llm"
# Packages whose mismatch fails a build, and why. A mismatch of any other is only a warning.
_CRITICAL: Mapping[str, str] = {
    _OWN: "commands, flags and files change between versions",
    "tensorrt": "engines load only in the TensorRT that built them, and tensorrt_llm is linked against one version",
    "torch": "tensorrt_llm's libraries are compiled for one torch version",
    "transformers": "the converters read models through it, and its classes change between versions",
}


@dataclass(frozen=True, slots=True)
class _CheckContext:
    """Input of the checks; ``chosen`` is true if the families come from recipes to build."""

    toolchain: Toolchain
    environment: ToolchainEnvironment
    inside: InstalledPackages
    families: tuple[str, ...]
    chosen: bool


def toolchain_checks(
    version: str,
    environment: ToolchainEnvironment | None,
    *,
    sm: int | None,
    ranks: int = 1,
    families: Iterable[str] = (),
) -> tuple[Check, ...]:
    """Checks that ``environment`` can run the commands of a version.

    Args:
        version: TensorRT-LLM version.
        environment: The configured environment; None if there is none.
        sm: Compute capability of the GPU that it runs on (90 for 9.0); None without a GPU.
        ranks: Ranks of the largest engine.
        families: Families to build. If empty, all families are checked, and requirements of a single family only
            warn.

    Raises:
        ToolchainError: MM601 or MM602, no such version.
    """
    toolchain = load_toolchain(version)
    requested = tuple(sorted({str(family) for family in families}))
    checked = requested or tuple(str(family) for family in toolchain.families)
    if environment is None:
        return (_unconfigured(version), _gpu(sm))
    place = _place(environment)
    try:
        inside = probe.query(environment, distributions(toolchain), programs(toolchain, checked, ranks))
    except ProbeError as error:
        broken = Check("environment", "fail", place, "one that responds", error.message, error.hint or "")
        return (broken, examples_check(toolchain, environment.examples, {}), _gpu(sm))
    context = _CheckContext(toolchain, environment, inside, checked, bool(requested))
    checks = [check for function in _CHECKS for check in function(context)]
    return (Check("environment", "ok", place), *checks, _gpu(sm))


def _unconfigured(version: str) -> Check:
    return Check(
        "environment",
        "fail",
        "not configured",
        f"a Python or container image with TensorRT-LLM {version}",
        "its commands run there, not in mmbuild's own Python",
        f"install it and configure it: `mmbuild config set-toolchain {version} --python PYTHON --examples CHECKOUT`; "
        "or build with `--set engine.backend=torch`, which needs no TensorRT-LLM",
    )


def _place(environment: ToolchainEnvironment) -> str:
    if environment.container is not None:
        return f"{environment.container.engine} image {environment.container.image}"
    return str(environment.python)


def _python(context: _CheckContext) -> Iterator[Check]:
    found, range_ = context.inside.versions["python"], context.toolchain.python
    fits = accepts(range_, found)
    yield Check(
        "python",
        "ok" if fits else "fail",
        found,
        range_,
        "" if fits else f"TensorRT-LLM {context.toolchain.version} does not support other versions",
        "" if fits else "create a virtual environment with such a Python, or use a container image",
    )


def _pins(context: _CheckContext) -> Iterator[Check]:
    for item in requirements(context.toolchain, context.families):
        yield _pin(item, context)


def _pin(item: RequiredPackage, context: _CheckContext) -> Check:
    found = version_of(item.name, context.inside.versions)
    label = f"{item.name} ({', '.join(item.families)})" if item.families else item.name
    required = item.specifier or "any"
    fits = accepts(item.specifier, found) if found is not None else False
    if fits:
        return Check(label, "ok", found or "", required)
    if fits is None:
        return Check(label, "unknown", found or "", required, "this version cannot be compared")
    hint = _install(item, context)
    if item.families:
        status: Status = "fail" if context.chosen else "warn"
        why = f"the code of {', '.join(item.families)} requires it"
    elif item.name not in _CRITICAL:
        status, why = "warn", f"TensorRT-LLM {context.toolchain.version} was released with it"
    elif found is not None and _own_accepts(item.name, found, context.inside):
        status, hint = "warn", ""
        why = "not the version recorded for this toolchain, but accepted by the installed tensorrt_llm"
    else:
        status, why = "fail", _CRITICAL[item.name]
    return Check(label, status, found or "not installed", required, why, hint)


def _own_accepts(name: str, version: str, inside: InstalledPackages) -> bool:
    """Whether the installed tensorrt_llm's own metadata accepts ``version``; it overrides the recorded pins."""
    own = specifiers(inside.requires, python=inside.versions["python"])
    specifier = next((own[other] for other in names_for(name) if other in own), None)
    return specifier is not None and accepts(specifier, version) is True


def _install(item: RequiredPackage, context: _CheckContext) -> str:
    if context.environment.container is not None:
        return "use the image released for this version, or one derived from it"
    index = " --extra-index-url https://pypi.nvidia.com" if item.name in (_OWN, "tensorrt") else ""
    return f"{context.environment.python} -m pip install{index} '{item.name}{item.specifier}'"


def _programs(context: _CheckContext) -> Iterator[Check]:
    for name, path in context.inside.programs.items():
        if path is not None:
            yield Check(name, "ok", path)
            continue
        place = _place(context.environment)
        why, hint = "its commands call it", f"install it in {place}"
        if context.environment.container is None:
            hint = f"install it next to {context.environment.python}, or on PATH"
        yield Check(name, "fail", "not found", "on PATH in the environment", why, hint)


def _examples(context: _CheckContext) -> Iterator[Check]:
    yield examples_check(context.toolchain, context.environment.examples, context.inside.versions)


def _gpu(sm: int | None) -> Check:
    if sm is not None:
        return Check("gpu", "ok", f"SM {sm}")
    return Check(
        "gpu",
        "fail",
        "none",
        "a GPU with its driver",
        "engines are tuned on their target GPU, and converters pack integer weights for it",
        "build on a machine with the GPU; `nvidia-smi` and `CUDA_VISIBLE_DEVICES` show what is visible here",
    )


_CHECKS: tuple[Callable[[_CheckContext], Iterator[Check]], ...] = (_python, _pins, _programs, _examples)


def container_checks(environment: ToolchainEnvironment | None) -> Iterator[Check]:
    """Checks for the program that runs an environment's container."""
    if environment is not None and environment.container is not None:
        engine = environment.container.engine
        why = "the configuration runs a toolchain in a container"
        yield program_check(engine, needed=True, why=why, hint=f"install {engine}")
