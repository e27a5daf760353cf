"""Checks of programs and packages: mmbuild's Python, git, MPI, container engines, the Python of TensorRT."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from mmbuild.backends.environments.probe import ProbeError, interpreter_versions, normalized
from mmbuild.backends.environments.programs import program_check
from mmbuild.backends.environments.versions import accepts, extra_requirements, names_for, version_of
from mmbuild.base import host
from mmbuild.base.checks import Check, Status
from mmbuild.base.errors import MmbuildError
from mmbuild.base.optional_packages import install_hint
from mmbuild.config.model import Interpreter

_TENSORRT = ">=8.6,<12"
_TENSORRT_PYTHON = ">=3.10"


def extra_checks(extra: str, *, needed: bool) -> Iterator[Check]:
    """Compare the requirements of one of mmbuild's extras with what is installed.

    Args:
        extra: ``torch``, ``mpi``, ...
        needed: Whether a build needs it.
    """
    required = extra_requirements(extra)
    installed = _installed(required)
    for name, specifier in required.items():
        version = installed.get(normalized(name))
        if version is not None and accepts(specifier, version):
            yield Check(name, "ok", version, specifier)
            continue
        status: Status = "fail" if needed or version is not None else "warn"
        why = (
            f"mmbuild was written for these versions of {name}"
            if version
            else f"extra `{extra}` is not installed"
        )
        yield Check(name, status, version or "not installed", specifier, why, install_hint(extra))


def _installed(names: Iterable[str]) -> Mapping[str, str]:
    """Versions of ``names`` installed in mmbuild's Python, by normalized name."""
    return {normalized(name): text for name, text in host.installed_versions(names).items()}


def script_checks() -> Iterator[Check]:
    """Programs that scripts from ``mmbuild script`` call to download models."""
    why = "scripts from `mmbuild script` download models with it"
    for name, package in (("git", "git"), ("git-lfs", "git-lfs")):
        yield program_check(name, needed=False, why=why, hint=f"install it (`apt install {package}`)")


def mpirun_check(ranks: int) -> Check:
    """Whether engines with several ranks can be started."""
    from mmbuild.backends.torch.distributed import mpirun

    try:
        launcher = mpirun.find()
    except MmbuildError as error:
        why = f"recipes build for {ranks} ranks"
        return Check("mpirun", "fail", error.message, "Open MPI or MPICH", why, error.hint or "")
    return Check("mpirun", "ok", f"{launcher.path} ({launcher.kind.name})")


def tensorrt_checks(interpreter: Interpreter | None, *, needed: bool) -> Iterator[Check]:
    """The Python that builds and runs TensorRT visual engines; no checks if it is neither configured nor needed."""
    if interpreter is None:
        own = version_of("tensorrt", _installed(names_for("tensorrt")))
        if own is not None:
            fits = accepts(_TENSORRT, own) is True
            why = "" if fits else "TensorRT visual engines are built and run in it"
            yield Check(
                "tensorrt", "ok" if fits else "fail", f"{own}, in mmbuild's own Python", _TENSORRT, why
            )
        elif needed:
            why = "recipes use TensorRT visual engines, which are built and run in a separate Python"
            hint = "`mmbuild config set-tensorrt --python PYTHON`, or `--set visual.backend=torch`"
            yield Check(
                "tensorrt python", "fail", "not configured", "a Python with tensorrt and numpy", why, hint
            )
        return
    try:
        versions = interpreter_versions(interpreter, (*names_for("tensorrt"), "numpy"))
    except ProbeError as error:
        yield Check("tensorrt python", "fail", str(interpreter.python), "", error.message, error.hint or "")
        return
    yield from (
        _versioned("tensorrt python", "python", _TENSORRT_PYTHON, versions, interpreter),
        _versioned("tensorrt", "tensorrt", _TENSORRT, versions, interpreter),
        _versioned("numpy beside tensorrt", "numpy", "", versions, interpreter),
    )


def _versioned(
    name: str, distribution: str, specifier: str, versions: Mapping[str, str], interpreter: Interpreter
) -> Check:
    version = version_of(distribution, versions)
    if version is not None and accepts(specifier, version):
        return Check(name, "ok", version, specifier)
    hint = f"{interpreter.python} -m pip install '{distribution}{specifier}'"
    if distribution == "python":
        hint = "create a virtual environment with such a Python, and register it with `mmbuild config set-tensorrt`"
    why = "TensorRT visual engines are built and run in it"
    return Check(name, "fail", version or "not installed", specifier or "any", why, hint)
