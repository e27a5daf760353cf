"""Versions compared with specifiers (PyPA version specifiers), and the requirements of mmbuild's own extras."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import metadata

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

# Distributions that bring the same module: the first is a wrapper of the others.
_SAME = (("tensorrt", "tensorrt-cu12", "tensorrt-cu13"),)


def accepts(specifier: str, version: str) -> bool | None:
    """Whether ``version`` satisfies ``specifier``; None where one of them cannot be read.

    Pre-releases count: TensorRT-LLM pins some, and NVIDIA's images hold alpha builds of torch.
    """
    try:
        return SpecifierSet(specifier).contains(Version(version), prereleases=True)
    except (InvalidSpecifier, InvalidVersion):
        return None


def specifiers(lines: Iterable[str], *, python: str = "", extra: str = "") -> Mapping[str, str]:
    """Requirement lines as normalized name -> specifier; those for other Pythons and other extras are left out.

    Args:
        lines: As in the metadata of a distribution; a line that is no requirement (a URL) is left out.
        python: Version of the Python that they are for; ours where empty.
        extra: The extra that is wanted.
    """
    where = {"extra": extra}
    if python:
        where |= {"python_full_version": python, "python_version": ".".join(python.split(".")[:2])}
    found = {}
    for line in lines:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue
        if requirement.marker is None or requirement.marker.evaluate(where):
            found[str(canonicalize_name(requirement.name))] = str(requirement.specifier)
    return found


def extra_requirements(extra: str) -> Mapping[str, str]:
    """What mmbuild's extra asks for, beyond what mmbuild always does; empty where mmbuild is not installed."""
    try:
        lines = metadata.requires("mmbuild") or []
    except metadata.PackageNotFoundError:
        return {}
    always = specifiers(lines)
    return {name: text for name, text in specifiers(lines, extra=extra).items() if name not in always}


def names_for(name: str) -> tuple[str, ...]:
    """``name``, and distributions that bring the same module."""
    return (name, *(other for names in _SAME if name in names for other in names if other != name))


def version_of(name: str, versions: Mapping[str, str]) -> str | None:
    """The version of ``name``, or of what brings the same module; None where there is none."""
    return next((versions[other] for other in names_for(name) if other in versions), None)
