"""Queries what is installed in an environment: one short process of its own Python, without heavy imports."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mmbuild.backends.environments.launch import Launch, launch, run
from mmbuild.base.errors import MmbuildError
from mmbuild.base.field_checks import list_of, mapping_of, optional, record, text, word
from mmbuild.base.json_reader import parse_json
from mmbuild.base.limits import MESSAGE
from mmbuild.config.model import Interpreter, ToolchainEnvironment

SECONDS = 60.0
"""Time limit of a query. The first start of a container takes seconds."""

_MARK = "mmbuild-installed:"
# Runs in the environment's Python (3.8 or newer). Images may print banners before the marked line.
_PROGRAM = f"""\
import json, shutil, sys
from importlib import metadata
names, programs, requiring = map(json.loads, sys.argv[1:4])
report = {{"versions": {{"python": "%d.%d.%d" % sys.version_info[:3]}}, "requires": []}}
for name in names:
    try:
        report["versions"][name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        pass
if requiring in report["versions"]:
    report["requires"] = metadata.requires(requiring) or []
report["programs"] = {{name: shutil.which(name) for name in programs}}
print("\\n{_MARK}" + json.dumps(report))
"""
_REPORT = record(
    {
        "versions": mapping_of(optional(word), 10_000),
        "requires": list_of(text(10_000), 10_000),
        "programs": mapping_of(optional(text(10_000)), 1_000),
    },
    closed=False,
)
_TOOLCHAIN = "tensorrt-llm"


@dataclass(frozen=True, slots=True)
class InstalledPackages:
    """What is installed in an environment.

    Attributes:
        versions: Versions of distributions by normalized name, and of Python as ``python``.
        requires: Requirement lines in the metadata of the installed tensorrt_llm.
        programs: Paths of programs by name; None if not on PATH.
    """

    versions: Mapping[str, str]
    requires: tuple[str, ...]
    programs: Mapping[str, str | None]


class ProbeError(MmbuildError):
    """An environment that cannot be queried."""


def normalized(name: str) -> str:
    """The normalized name of a distribution (packaging.python.org, "Name normalization")."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed(
    environment: ToolchainEnvironment, names: Iterable[str], *, seconds: float = SECONDS
) -> Mapping[str, str]:
    """Versions of distributions inside ``environment``, by normalized name, and of Python as ``python``.

    Args:
        environment: A Python of this host, or a container image.
        names: Distributions.
        seconds: Time limit.

    Raises:
        ProbeError: As :func:`query`.
    """
    return query(environment, names, seconds=seconds).versions


def query(
    environment: ToolchainEnvironment,
    names: Iterable[str],
    programs: Iterable[str] = (),
    *,
    seconds: float = SECONDS,
) -> InstalledPackages:
    """Query ``environment`` in one process.

    Args:
        environment: A Python of this host, or a container image.
        names: Distributions.
        programs: Programs to look for on its PATH.
        seconds: Time limit.

    Raises:
        ProbeError: MM614, no such interpreter; MM615, no such container engine or image; MM616, timeout; MM617, an
            invalid answer.
    """
    required = sorted({normalized(name) for name in names})
    requested = (json.dumps(required), json.dumps(list(programs)), json.dumps(_TOOLCHAIN))
    with tempfile.TemporaryDirectory(prefix="mmbuild-probe-") as directory:
        started = launch(environment, ("python3", "-c", _PROGRAM, *requested), workdir=Path(directory))
        if environment.container is None:
            _require_interpreter(Path(started.argv[0]))
        else:
            _require_engine(started)
        return _answer(_output(started, directory, seconds), started)


def interpreter_versions(
    interpreter: Interpreter, names: Iterable[str] = ("tensorrt", "numpy"), *, seconds: float = SECONDS
) -> Mapping[str, str]:
    """:func:`installed` for an interpreter that belongs to no toolchain."""
    # The examples path is a placeholder: queries do not read it.
    environment = ToolchainEnvironment(
        python=interpreter.python, examples=Path("/"), variables=interpreter.variables
    )
    return installed(environment, names, seconds=seconds)


def examples_revision(path: Path) -> str | None:
    """The commit checked out at ``path``; None if unknown (no git, not a checkout)."""
    return _git(path, "rev-parse", "--verify", "HEAD")


def revision_of(path: Path, name: str) -> str | None:
    """The commit that ``name`` (a tag or commit) refers to in the checkout at ``path``; None if unknown there."""
    return _git(path, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")


def _git(path: Path, *words: str) -> str | None:
    # The directory itself must be the checkout: inside another repository, git would report that repository's commit.
    if shutil.which("git") is None or not (path / ".git").exists():
        return None
    # Another user's checkout is safe to read; git's safe.directory guards against its hooks and config.
    command = ["git", "-c", f"safe.directory={path}", "-C", str(path), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def _require_interpreter(path: Path) -> None:
    if path.is_file() and shutil.which(str(path)):
        return
    problem = "cannot be run" if path.exists() else "does not exist"
    raise ProbeError(
        f"the interpreter `{path}` {problem}",
        code="MM614",
        hint="set the python of a virtual environment, such as /opt/trtllm/bin/python, "
        "with `mmbuild config set-toolchain` or `mmbuild config set-tensorrt`",
    )


def _require_engine(started: Launch) -> None:
    engine = started.argv[0]
    if shutil.which(engine, path=started.environment.get("PATH")) is None:
        raise ProbeError(
            f"`{engine}` is not installed, but the configuration runs a toolchain in a container",
            code="MM615",
            hint=f"install {engine}, or set a Python with `mmbuild config set-toolchain VERSION --python`",
        )


def _output(started: Launch, directory: str, seconds: float) -> subprocess.CompletedProcess[str]:
    try:
        done = run(started, directory, seconds)
    except OSError as error:
        raise ProbeError(
            f"`{started.argv[0]}` cannot be started: {error.strerror or error}",
            code="MM614",
            hint="it is not an executable for this machine; set another interpreter",
        ) from error
    if done is None:
        raise ProbeError(
            f"`{started.argv[0]}` did not answer within {seconds:g} s",
            code="MM616",
            hint="start it by hand to see what it waits for; pull a container image beforehand",
        )
    return done


def _answer(done: subprocess.CompletedProcess[str], started: Launch) -> InstalledPackages:
    lines = [line for line in done.stdout.splitlines() if line.startswith(_MARK)]
    try:
        report = parse_json(lines[-1].removeprefix(_MARK).encode(), MESSAGE)
        if done.returncode == 0 and _REPORT(report, "") is None and report["versions"].get("python"):
            return InstalledPackages(report["versions"], tuple(report["requires"]), report["programs"])
    except (IndexError, KeyError, TypeError, ValueError):
        pass
    engine = Path(started.argv[0]).name
    last_line = next(
        (line for line in reversed(done.stderr.splitlines()) if line.strip()), "nothing on stderr"
    )
    # The engine itself returns 125 to 127: it failed, the program is not executable, or does not exist.
    if engine in ("docker", "podman") and done.returncode in (125, 126, 127):
        raise ProbeError(
            f"{engine} could not start the image: {last_line.strip()}",
            code="MM615",
            hint=f"pull the image by hand (`{engine} pull`), and check that {engine} works without sudo",
        )
    raise ProbeError(
        f"`{started.argv[0]}` did not report what is installed: exit status {done.returncode}, {last_line.strip()}",
        code="MM617",
        hint="run it by hand with `-c 'import importlib.metadata'`; Python 3.8 or newer is required",
    )
