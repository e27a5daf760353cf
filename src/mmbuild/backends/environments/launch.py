"""A command's argv and environment variables inside a toolchain's environment, and a runner for short commands."""

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
# Launchers, and their options that take values: the program is the first word after these.
_LAUNCHERS = ("mpirun", "mpiexec")
_TAKE_ONE = frozenset({"-n", "-np", "-c", "-N", "-H", "--host", "--hostfile", "--bind-to", "--map-by"})
_TAKE_TWO = frozenset({"--mca"})
# Variables of this process's Python that would misdirect another Python.
_OURS = ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME")
# Variables that the clients of container engines read (docs.docker.com/reference/cli/docker, podman(1)).
_CLIENT = ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY")
_CLIENT_PODMAN = ("CONTAINER_HOST", "CONTAINERS_CONF", "CONTAINERS_STORAGE_CONF", "REGISTRY_AUTH_FILE")
_SECRET = ("TOKEN", "SECRET", "PASSWORD", "API_KEY")
# The host's user has no name and no home in the image; torch and the hub client look up both.
_HOME = {"HOME": "/tmp", "USER": "mmbuild"}


@dataclass(frozen=True, slots=True)
class Launch:
    """A process to start.

    Attributes:
        argv: Program and arguments.
        environment: The complete environment of the process.
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
    """The process that runs ``argv`` inside ``environment``.

    Args:
        environment: A Python of this host, or a container image.
        argv: Program and arguments; ``python`` (also after ``mpirun``) means the environment's own.
        workdir: Absolute, writable working directory. The caller starts the process there.
        mounts: Additional absolute paths that it reads.
        writable: Additional absolute paths that it writes to.
        variables: Variables of this command; they override those of the environment.
        gpus: UUIDs of the GPUs that it may use. If empty, a Python inherits this process's setting and a container
            gets no GPU.
        source: Variables of this process; default ``os.environ``.
        user: ``uid:gid`` in a docker container; default this process's own.

    Raises:
        MmbuildError: MM613, a path cannot be mounted into a container.
    """
    inherited = os.environ if source is None else source
    required = {**environment.variables, **(variables or {})}
    if environment.container is not None:
        readable = (environment.examples, *mounts)
        paths = _mounts(readable, (workdir, *writable))
        return _contained(environment.container, argv, workdir, paths, required, gpus, inherited, user)
    assert environment.python is not None  # the model requires one of the two
    return _hosted(environment.python, argv, required, gpus, inherited)


def _hosted(
    python: Path,
    argv: Sequence[str],
    required: Mapping[str, str],
    gpus: Sequence[str],
    inherited: Mapping[str, str],
) -> Launch:
    listed = {name: value for name, value in listed_environment(inherited).items() if name not in _OURS}
    variables = {**listed, "PYTHONNOUSERSITE": "1", **required}
    if gpus:
        variables["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    # The console scripts of a virtual environment, such as trtllm-build, are in the directory of its python.
    variables["PATH"] = os.pathsep.join(filter(None, (str(python.parent), variables.get("PATH", os.defpath))))
    return Launch(_with_python(argv, str(python)), variables)


def _with_python(argv: Sequence[str], python: str) -> tuple[str, ...]:
    words = list(argv)
    index = _program_index(words)
    if index < len(words) and words[index] in _PYTHON:
        words[index] = python
    return tuple(words)


def _program_index(words: Sequence[str]) -> int:
    """Index of the program: first, or after the options of a launcher; ``len(words)`` if there is none."""
    if not words or Path(words[0]).name not in _LAUNCHERS:
        return 0
    index = 1
    while index < len(words) and words[index].startswith("-"):
        index += 2 if words[index] in _TAKE_ONE else 3 if words[index] in _TAKE_TWO else 1
    return min(index, len(words))


def _contained(
    container: Container,
    argv: Sequence[str],
    workdir: Path,
    paths: Mapping[Path, bool],
    required: Mapping[str, str],
    gpus: Sequence[str],
    inherited: Mapping[str, str],
    user: str | None,
) -> Launch:
    inside = {**_HOME, "PYTHONNOUSERSITE": "1", **required}
    secret = {name: value for name, value in inside.items() if any(word in name.upper() for word in _SECRET)}
    words = [container.engine, "run", "--rm", *_identity(container.engine, user), *_devices(container, gpus)]
    words += ["--ipc=host", *_limits(container.engine)]
    for path, write in paths.items():
        words += ["--mount", f"type=bind,src={path},dst={path}{'' if write else ',readonly=true'}"]
    words += ["-w", str(workdir)]
    for name, value in inside.items():
        # Name only: the engine reads the value from its own environment, so it appears in no process list.
        words += ["-e", name if name in secret else f"{name}={value}"]
    words += [*container.options, container.image, *argv]
    return Launch(tuple(words), {**_client(inherited), **secret})


def _identity(engine: str, user: str | None) -> Iterator[str]:
    """Options that make files belong to the user and, for docker, forward signals from its client to the program."""
    if engine == "podman":
        yield "--userns=keep-id"
        return
    yield from ("--init", "--user", user or f"{os.getuid()}:{os.getgid()}")


def _limits(engine: str) -> tuple[str, ...]:
    """The limits that TensorRT-LLM's instructions set for docker: pinned memory, deep stacks.

    Rootless podman may not raise limits and refuses to start (podman issue 19319): it keeps the user's.
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
        # docker parses the value as a CSV record, in which a field with commas must be quoted.
        yield from ("--gpus", f'"device={",".join(gpus)}"')


def _mounts(readable: Sequence[Path], writable: Sequence[Path]) -> dict[Path, bool]:
    """Paths to mount, parents first, and whether each is writable."""
    paths = {**dict.fromkeys(readable, False), **dict.fromkeys(writable, True)}
    for path in paths:
        _require_mountable(path)
    return dict(sorted(paths.items(), key=lambda item: item[0].parts))


def _require_mountable(path: Path) -> None:
    bad = next((character for character in ':,"\n\r' if character in str(path)), None)
    if bad is None and path.is_absolute():
        return
    problem = (
        "is not absolute" if bad is None else f"contains {bad!r}, which the option `--mount` cannot express"
    )
    raise MmbuildError(
        f"`{path}` cannot be mounted into a container: it {problem}",
        code="MM613",
        hint="use a path without colons, commas, quotes and line breaks: another `--store`, another checkout of "
        "TensorRT-LLM, or a symbolic link to it",
    )


def _client(inherited: Mapping[str, str]) -> dict[str, str]:
    names = (*_CLIENT, *_CLIENT_PODMAN)
    return {**listed_environment(inherited), **{name: inherited[name] for name in names if name in inherited}}


def run(started: Launch, directory: str, seconds: float) -> subprocess.CompletedProcess[str] | None:
    """Run ``started`` in ``directory``; None if it took longer than ``seconds`` and was killed.

    Its child processes are killed with it, so that no grandchild keeps its output open.

    Raises:
        OSError: The process cannot be started.
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
