"""What a TensorRT-LLM version wants installed: distributions by version and family, and programs. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from packaging.requirements import InvalidRequirement, Requirement

from mmbuild.backends.environments.probe import normalized
from mmbuild.backends.tensorrt_llm.toolchains.load import pinned_distributions
from mmbuild.backends.tensorrt_llm.toolchains.model import CommandEntry, Toolchain, When

# Distributions by the repository that pip is given; their names differ.
_REPOSITORIES: Mapping[str, str] = {"https://github.com/bfshi/scaling_on_scales": "s2wrapper"}
_HOST_PROGRAMS = ("git",)  # run by mmbuild itself, outside of the environment
_LAUNCHERS = ("mpirun", "mpiexec")
_FROM_ELSEWHERE = ("python", "python3", *_HOST_PROGRAMS)


@dataclass(frozen=True, slots=True)
class RequiredPackage:
    """A distribution that the version asks for, or some ``families`` alone."""

    name: str
    specifier: str
    families: tuple[str, ...] = ()


def requirements(toolchain: Toolchain, families: Iterable[str]) -> Iterator[RequiredPackage]:
    """Every distribution with each specifier that is asked of it: a family's own goes before the version's."""
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
    """(normalized name, specifier) of a requirement line, which may be a repository."""
    url = line.removeprefix("git+").removesuffix(".git")
    if url in _REPOSITORIES:
        return _REPOSITORIES[url], ""
    try:
        requirement = Requirement(line)
    except InvalidRequirement:
        return normalized(url.rpartition("/")[2]), ""
    return normalized(requirement.name), str(requirement.specifier)


def distributions(toolchain: Toolchain) -> set[str]:
    """Names of everything that :func:`requirements` can ask for, and what any other version pins."""
    lines = [line for entry in toolchain.families.values() for line in entry.requirements]
    return {*pinned_distributions(), *(_requirement(line)[0] for line in lines)}


def programs(toolchain: Toolchain, families: Iterable[str], ranks: int) -> tuple[str, ...]:
    """Programs that the commands of ``families`` begin with, other than python."""
    chosen = set(families)
    found: dict[str, None] = {}
    for command in toolchain.commands:
        if chosen & set(map(str, command.families)) and not command.script_only and command.edit is None:
            found.update(dict.fromkeys(_begins_with(command, ranks)))
    return tuple(name for name in found if name not in _FROM_ELSEWHERE)


def _begins_with(command: CommandEntry, ranks: int) -> Iterator[str]:
    """The program of a command, and its launcher where there are several ranks."""
    for group in command.argv:
        words = group.add[0] if isinstance(group, When) else group
        if not isinstance(group, When):
            yield words[0]
            return
        if words[0] in _LAUNCHERS and ranks > 1:
            yield words[0]
