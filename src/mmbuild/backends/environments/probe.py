"""What is installed in an environment: asked of its own Python, in one short process that imports nothing heavy."""

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
"""How long an environment may take to answer. A container that starts for the first time takes seconds."""

_MARK = "mmbuild-installed:"
# Runs in the foreign Python (3.8 or newer): banners of images may be printed before the line that counts.
_PROGRAM = f"""\
import json, shutil, sys
from importlib import metadata
names, programs, requiring = map(json.loads, sys.argv[1:4])
found = {{"versions": {{"python": "%d.%d.%d" % sys.version_info[:3]}}, "requires": []}}
for name in names:
    try:
        found["versions"][name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        pass
if requiring in found["versions"]:
    found["requires"] = metadata.requires(requiring) or []
found["programs"] = {{name: shutil.which(name) for name in programs}}
print("\\n{_MARK}" + json.dumps(found))
"""
_SAID = record(
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
    """What an environment says about itself.

    Attributes:
        versions: Distribution (normalized name) to version, and its own as ``python``.
        requires: What the installed tensorrt_llm itself requires: requirement lines of its metadata.
        programs: Program to the path it has there, None where there is none.
    """

    versions: Mapping[str, str]
    requires: tuple[str, ...]
    programs: Mapping[str, str | None]


class ProbeError(MmbuildError):
    """An environment that cannot be asked."""


def normalized(name: str) -> str:
    """A distribution's name as comparisons use it (packaging.python.org, "Name normalization")."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed(
    environment: ToolchainEnvironment, names: Iterable[str], *, seconds: float = SECONDS
) -> Mapping[str, str]:
    """Versions of distributions inside ``environment``, by normalized name, and its own as ``python``.

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
    """What is inside ``environment``, in one process.

    Args:
        environment: A Python of this host, or a container image.
        names: Distributions.
        programs: Programs to look for on its PATH.
        seconds: Time limit.

    Raises:
        ProbeError: MM614, no such interpreter; MM615, no such container engine or image; MM616, no answer in time;
            MM617, an answer that makes no sense.
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
    """:func:`installed` for an interpreter that is no toolchain's."""
    # An environment with no examples of its own: nothing that is asked here reads them.
    alone = ToolchainEnvironment(
        python=interpreter.python, examples=Path("/"), variables=interpreter.variables
    )
    return installed(alone, names, seconds=seconds)


def examples_revision(path: Path) -> str | None:
    """The commit that the checkout at ``path`` is at; None where that is not known (no git, no checkout)."""
    return _git(path, "rev-parse", "--verify", "HEAD")


def revision_of(path: Path, name: str) -> str | None:
    """The commit that ``name`` (a tag or commit) means in the checkout at ``path``; None where it has none."""
    return _git(path, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")


def _git(path: Path, *words: str) -> str | None:
    # The directory itself must be the checkout: a directory inside another repository has that one's commit.
    if shutil.which("git") is None or not (path / ".git").exists():
        return None
    # Only reading: a checkout of another user is no reason to refuse (git's safe.directory guards hooks and config).
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
        hint="Name the python of a virtual environment, such as /opt/trtllm/bin/python, "
        "with `mmbuild config set-toolchain` or `set-tensorrt`",
    )


def _require_engine(started: Launch) -> None:
    engine = started.argv[0]
    if shutil.which(engine, path=started.environment.get("PATH")) is None:
        raise ProbeError(
            f"`{engine}` is not installed, and the configuration runs a toolchain in a container",
            code="MM615",
            hint=f"Install {engine}, or name a Python with `mmbuild config set-toolchain VERSION --python`",
        )


def _output(started: Launch, directory: str, seconds: float) -> subprocess.CompletedProcess[str]:
    try:
        done = run(started, directory, seconds)
    except OSError as error:
        raise ProbeError(
            f"`{started.argv[0]}` cannot be started: {error.strerror or error}",
            code="MM614",
            hint="It is no program of this machine; name another interpreter",
        ) from error
    if done is None:
        raise ProbeError(
            f"`{started.argv[0]}` did not answer within {seconds:g} s",
            code="MM616",
            hint="Start it by hand and look what it waits for; a container image should be pulled beforehand",
        )
    return done


def _answer(done: subprocess.CompletedProcess[str], started: Launch) -> InstalledPackages:
    lines = [line for line in done.stdout.splitlines() if line.startswith(_MARK)]
    try:
        found = parse_json(lines[-1].removeprefix(_MARK).encode(), MESSAGE)
        if done.returncode == 0 and _SAID(found, "") is None and found["versions"].get("python"):
            return InstalledPackages(found["versions"], tuple(found["requires"]), found["programs"])
    except (IndexError, KeyError, TypeError, ValueError):
        pass
    engine = Path(started.argv[0]).name
    reported = next(
        (line for line in reversed(done.stderr.splitlines()) if line.strip()), "nothing on stderr"
    )
    # 125 to 127 are the engine's own: it failed, the program cannot be run, or is not there.
    if engine in ("docker", "podman") and done.returncode in (125, 126, 127):
        raise ProbeError(
            f"{engine} could not start the image: {reported.strip()}",
            code="MM615",
            hint=f"Pull the image by hand ({engine} pull), and look whether {engine} runs without sudo",
        )
    raise ProbeError(
        f"`{started.argv[0]}` did not say what is installed: exit status {done.returncode}, {reported.strip()}",
        code="MM617",
        hint="Run it by hand with `-c 'import importlib.metadata'`; Python 3.8 or newer is needed",
    )
