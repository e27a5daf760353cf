"""Requirements of a TensorRT-LLM version: distributions by version and family, and programs. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from packaging.requirements import InvalidRequirement, Requirement

from mmbuild.backends.environments.probe import normalized
from mmbuild.backends.tensorrt_llm.toolchains.load import pinned_distributions
from mmbuild.backends.tensorrt_llm.toolchains.model import CommandEntry, Toolchain, When

# Distributions by the repository that pip installs them from, where the names differ.
_REPOSITORIES: Mapping[str, str] = {"https://github.com/bfshi/scaling_on_scales": "s2wrapper"}
_HOST_PROGRAMS = ("git",)  # run by mmbuild itself, outside the environment
_LAUNCHERS = ("mpirun", "mpiexec")
_FROM_ELSEWHERE = ("python", "python3", *_HOST_PROGRAMS)


@dataclass(frozen=True, slots=True)
class RequiredPackage:
    """A distribution that a version requires; if ``families`` is not empty, only for these."""

    name: str
    specifier: str
    families: tuple[str, ...] = ()


def requirements(toolchain: Toolchain, families: Iterable[str]) -> Iterator[RequiredPackage]:
    """Every required distribution with each of its specifiers; a family's specifier overrides the version's."""
    own = {str(name): entry.requirements for name, entry in toolchain.families.items()}
    special: dict[tuple[str, str], list[str]] = {}
    for family in families:
        for line in own.get(family, ()):
            special.setdefault(_requirement(line), []).append(family)
    chosen = set(families)
    for name, specifier in toolchain.pins.items():
        overriding = {
            user for (other, _), users in special.items() if other == normalized(name) for user in users
        }
        if chosen - overriding:
            yield RequiredPackage(normalized(name), specifier)
    for (name, specifier), users in special.items():
        yield RequiredPackage(name, specifier, tuple(users))


def _requirement(line: str) -> tuple[str, str]:
    """(normalized name, specifier) of a requirement line, which may be a repository URL."""
    url = line.removeprefix("git+").removesuffix(".git")
    if url in _REPOSITORIES:
        return _REPOSITORIES[url], ""
    try:
        requirement = Requirement(line)
    except InvalidRequirement:
        return normalized(url.rpartition("/")[2]), ""
    return normalized(requirement.name), str(requirement.specifier)


def distributions(toolchain: Toolchain) -> set[str]:
    """Names of all distributions that :func:`requirements` can return, and of those that any other version pins."""
    lines = [line for entry in toolchain.families.values() for line in entry.requirements]
    return {*pinned_distributions(), *(_requirement(line)[0] for line in lines)}


def programs(toolchain: Toolchain, families: Iterable[str], ranks: int) -> tuple[str, ...]:
    """Programs that the commands of ``families`` run, other than python."""
    chosen = set(families)
    names: dict[str, None] = {}
    for command in toolchain.commands:
        if chosen & set(map(str, command.families)) and not command.script_only and command.edit is None:
            names.update(dict.fromkeys(_programs_of(command, ranks)))
    return tuple(name for name in names if name not in _FROM_ELSEWHERE)


def _programs_of(command: CommandEntry, ranks: int) -> Iterator[str]:
    """The program of a command, and its launcher if there are several ranks."""
    for group in command.argv:
        words = group.add[0] if isinstance(group, When) else group
        if not isinstance(group, When):
            yield words[0]
            return
        if words[0] in _LAUNCHERS and ranks > 1:
            yield words[0]
