"""Compares versions with PyPA version specifiers, and reads the requirements of mmbuild's own extras."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import metadata

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

# Distributions that provide the same module; the first wraps the others.
_SAME = (("tensorrt", "tensorrt-cu12", "tensorrt-cu13"),)


def accepts(specifier: str, version: str) -> bool | None:
    """Whether ``version`` satisfies ``specifier``; None if either cannot be parsed.

    Pre-releases are accepted: TensorRT-LLM pins some, and NVIDIA's images contain alpha builds of torch.
    """
    try:
        return SpecifierSet(specifier).contains(Version(version), prereleases=True)
    except (InvalidSpecifier, InvalidVersion):
        return None


def specifiers(lines: Iterable[str], *, python: str = "", extra: str = "") -> Mapping[str, str]:
    """Specifiers by normalized name, from requirement lines that apply to one Python and extra.

    Args:
        lines: As in the metadata of a distribution; lines that are not requirements (URLs) are ignored.
        python: Python version to evaluate markers for; empty means the running one.
        extra: Extra to evaluate markers for.
    """
    environment = {"extra": extra}
    if python:
        environment |= {"python_full_version": python, "python_version": ".".join(python.split(".")[:2])}
    result = {}
    for line in lines:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue
        if requirement.marker is None or requirement.marker.evaluate(environment):
            result[str(canonicalize_name(requirement.name))] = str(requirement.specifier)
    return result


def extra_requirements(extra: str) -> Mapping[str, str]:
    """Requirements that one of mmbuild's extras adds to the base ones; empty if mmbuild is not installed."""
    try:
        lines = metadata.requires("mmbuild") or []
    except metadata.PackageNotFoundError:
        return {}
    base = specifiers(lines)
    return {name: text for name, text in specifiers(lines, extra=extra).items() if name not in base}


def names_for(name: str) -> tuple[str, ...]:
    """``name`` and the distributions that provide the same module."""
    return (name, *(other for names in _SAME if name in names for other in names if other != name))


def version_of(name: str, versions: Mapping[str, str]) -> str | None:
    """The version of ``name`` or of a distribution that provides the same module; None if not installed."""
    return next((versions[other] for other in names_for(name) if other in versions), None)
