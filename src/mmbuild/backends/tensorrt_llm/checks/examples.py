"""Checks that the example scripts exist and match the toolchain's version."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mmbuild.backends.environments import probe
from mmbuild.backends.environments.versions import accepts
from mmbuild.backends.tensorrt_llm.toolchains.model import Toolchain
from mmbuild.base.checks import Check

_WHY = "the commands run this version's example scripts, whose flags change between versions"


def examples_check(toolchain: Toolchain, path: Path, versions: Mapping[str, str]) -> Check:
    """Compares the checkout at ``path`` with the toolchain's tag.

    Args:
        toolchain: The toolchain whose commands run.
        path: The configured checkout.
        versions: Versions installed in the environment, by normalized name; empty if unknown.
    """
    source = toolchain.source
    expected = f"a checkout of {source.revision}"
    if not (path / toolchain.workdir).is_dir():
        found = f"{path} has no {toolchain.workdir}" if path.is_dir() else f"{path} does not exist"
        clone = f"git clone {source.repository} {path} && git -C {path} checkout {source.revision}"
        return Check("examples", "fail", found, expected, _WHY, clone)
    head = probe.examples_revision(path)
    if head is None:
        why = "without git and its history the version of the scripts cannot be determined"
        return Check("examples", "unknown", str(path), expected, why)
    if head == probe.revision_of(path, source.revision):
        return Check("examples", "ok", f"{path} at {source.revision}")
    tag = _tag_of_installed(toolchain, versions)
    if tag is not None and head == probe.revision_of(path, tag):
        why = f"this is the tag of the installed tensorrt_llm, but the commands were written for {source.revision}"
        return Check("examples", "warn", f"{path} at {tag}", expected, why)
    hint = f"git -C {path} fetch --tags && git -C {path} checkout {source.revision}"
    return Check("examples", "fail", f"{path} at {head[:12]}", expected, _WHY, hint)


def _tag_of_installed(toolchain: Toolchain, versions: Mapping[str, str]) -> str | None:
    """The tag of the installed tensorrt_llm if the toolchain accepts that version: its own scripts match it."""
    version = versions.get("tensorrt-llm")
    if version is None or not accepts(toolchain.pins["tensorrt_llm"], version):
        return None
    return f"v{version.partition('+')[0]}"
