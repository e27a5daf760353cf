"""A command's argv and environment variables inside a toolchain's environment. Nothing here runs anything."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmbuild.base.errors import MmbuildError
from mmbuild.config.model import Container, ToolchainEnvironment
from mmbuild.core.execution.worker_environment import listed_environment

_PYTHON = ("python", "python3")
# Launchers, and their options that take a value: the program is the first word that is neither.
_LAUNCHERS = ("mpirun", "mpiexec")
_TAKE_ONE = frozenset({"-n", "-np", "-c", "-N", "-H", "--host", "--hostfile", "--bind-to", "--map-by"})
_TAKE_TWO = frozenset({"--mca"})
# Variables of this process's Python that would lead another Python astray.
_OURS = ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME")
# What the clients of container engines go by (docs.docker.com/reference/cli/docker, podman(1)).
_CLIENT = ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY")
_CLIENT_PODMAN = ("CONTAINER_HOST", "CONTAINERS_CONF", "CONTAINERS_STORAGE_CONF", "REGISTRY_AUTH_FILE")
_SECRET = ("TOKEN", "SECRET", "PASSWORD", "API_KEY")
# The user of this host has no name and no home in the image; both are looked up by torch and the hub's client.
_HOME = {"HOME": "/tmp", "USER": "mmbuild"}


@dataclass(frozen=True, slots=True)
class Launch:
    """What to start.

    Attributes:
        argv: Program and arguments.
        environment: All environment variables of the process, and no others.
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str]


def launch(
    environment: ToolchainEnvironment,
    argv: Sequence[str],
    *,
    workdir: Path,
    mounts: Sequence[Path] = (),
    writable: Sequence[Path] = (),
    variables: Mapping[str, str] | None = None,
    gpus: Sequence[str] = (),
    source: Mapping[str, str] | None = None,
    user: str | None = None,
) -> Launch:
    """``argv`` as it is started inside ``environment``.

    Args:
        environment: A Python of this host, or a container image.
        argv: Program and arguments; ``python`` (also behind ``mpirun``) stands for the environment's own.
        workdir: Absolute directory that it is started in, and may write to. The caller starts the process there.
        mounts: Further absolute paths that it reads.
        writable: Further absolute paths that it writes to.
        variables: Variables of this command, over those of the environment.
        gpus: UUIDs of the GPUs that it may use. None named: as this process's own environment says for a Python,
            and none for a container.
        source: Variables of this process; ``os.environ`` where left out.
        user: ``uid:gid`` in a docker container; this process's own where left out.

    Raises:
        MmbuildError: MM613, a path that a container cannot mount.
    """
    given = os.environ if source is None else source
    required = {**environment.variables, **(variables or {})}
    if environment.container is not None:
        readable = (environment.examples, *mounts)
        places = _mounts(readable, (workdir, *writable))
        return _contained(environment.container, argv, workdir, places, required, gpus, given, user)
    assert environment.python is not None  # the model has one of the two
    return _hosted(environment.python, argv, required, gpus, given)


def _hosted(
    python: Path,
    argv: Sequence[str],
    required: Mapping[str, str],
    gpus: Sequence[str],
    given: Mapping[str, str],
) -> Launch:
    listed = {name: value for name, value in listed_environment(given).items() if name not in _OURS}
    found = {**listed, "PYTHONNOUSERSITE": "1", **required}
    if gpus:
        found["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    # A virtual environment has its console scripts, trtllm-build and mpirun, beside its python.
    found["PATH"] = os.pathsep.join(filter(None, (str(python.parent), found.get("PATH", os.defpath))))
    return Launch(_with_python(argv, str(python)), found)


def _with_python(argv: Sequence[str], python: str) -> tuple[str, ...]:
    words = list(argv)
    place = _program(words)
    if place < len(words) and words[place] in _PYTHON:
        words[place] = python
    return tuple(words)


def _program(words: Sequence[str]) -> int:
    """Where the program is: first, or behind the options of a launcher; ``len(words)`` where there is none."""
    if not words or Path(words[0]).name not in _LAUNCHERS:
        return 0
    place = 1
    while place < len(words) and words[place].startswith("-"):
        place += 2 if words[place] in _TAKE_ONE else 3 if words[place] in _TAKE_TWO else 1
    return min(place, len(words))


def _contained(
    container: Container,
    argv: Sequence[str],
    workdir: Path,
    places: Mapping[Path, bool],
    required: Mapping[str, str],
    gpus: Sequence[str],
    given: Mapping[str, str],
    user: str | None,
) -> Launch:
    inside = {**_HOME, "PYTHONNOUSERSITE": "1", **required}
    secret = {name: value for name, value in inside.items() if any(word in name.upper() for word in _SECRET)}
    words = [container.engine, "run", "--rm", *_identity(container.engine, user), *_devices(container, gpus)]
    words += ["--ipc=host", *_limits(container.engine)]
    for path, write in places.items():
        words += ["--mount", f"type=bind,src={path},dst={path}{'' if write else ',readonly=true'}"]
    words += ["-w", str(workdir)]
    for name, value in inside.items():
        # A name alone: the engine takes the value from its own environment, and no process list shows it.
        words += ["-e", name if name in secret else f"{name}={value}"]
    words += [*container.options, container.image, *argv]
    return Launch(tuple(words), {**_client(given), **secret})


def _identity(engine: str, user: str | None) -> Iterator[str]:
    """Files are written as the user's own; a signal that ends docker's client ends the program as well."""
    if engine == "podman":
        yield "--userns=keep-id"
        return
    yield from ("--init", "--user", user or f"{os.getuid()}:{os.getgid()}")


def _limits(engine: str) -> tuple[str, ...]:
    """What TensorRT-LLM's own instructions give docker: pinned memory, deep stacks.

    podman without root may raise no limit and refuses to start (podman issue 19319): it takes the user's own.
    """
    return (
        ("--ulimit", "host")
        if engine == "podman"
        else ("--ulimit", "memlock=-1", "--ulimit", "stack=67108864")
    )


def _devices(container: Container, gpus: Sequence[str]) -> Iterator[str]:
    if container.engine == "podman":
        for uuid in gpus:
            yield from ("--device", f"nvidia.com/gpu={uuid}")
    elif gpus:
        # docker reads the value as a line of CSV, in which a field with commas is quoted.
        yield from ("--gpus", f'"device={",".join(gpus)}"')


def _mounts(readable: Sequence[Path], writable: Sequence[Path]) -> dict[Path, bool]:
    """Paths to mount, outer ones first, and whether each may be written to."""
    found = {**dict.fromkeys(readable, False), **dict.fromkeys(writable, True)}
    for path in found:
        _require_mountable(path)
    return dict(sorted(found.items(), key=lambda item: item[0].parts))


def _require_mountable(path: Path) -> None:
    bad = next((character for character in ':,"\n\r' if character in str(path)), None)
    if bad is None and path.is_absolute():
        return
    problem = "is not absolute" if bad is None else f"holds {bad!r}, which the option --mount cannot carry"
    raise MmbuildError(
        f"`{path}` cannot be mounted into a container: it {problem}",
        code="MM613",
        hint="Use a path without colons, commas, quotes and line breaks: another --store, another checkout of "
        "TensorRT-LLM, or a link to it",
    )


def _client(given: Mapping[str, str]) -> dict[str, str]:
    names = (*_CLIENT, *_CLIENT_PODMAN)
    return {**listed_environment(given), **{name: given[name] for name in names if name in given}}


def run(started: Launch, directory: str, seconds: float) -> subprocess.CompletedProcess[str] | None:
    """Run ``started`` in ``directory``; None where it took longer than ``seconds`` and was killed.

    Everything that it started is killed with it, so that no grandchild keeps its output open.

    Raises:
        OSError: It cannot be started.
    """
    process = subprocess.Popen(
        started.argv,
        cwd=directory,
        env=dict(started.environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(timeout=seconds)
    except BaseException as error:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            return None
        raise
    return subprocess.CompletedProcess(started.argv, process.returncode, stdout, stderr)
