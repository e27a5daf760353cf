"""Whether the example scripts are there, and of the version that commands were written for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mmbuild.backends.environments import probe
from mmbuild.backends.environments.versions import accepts
from mmbuild.backends.tensorrt_llm.toolchains.model import Toolchain
from mmbuild.base.checks import Check

_WHY = "the commands run scripts of this version's examples, whose flags differ from version to version"


def examples_check(toolchain: Toolchain, path: Path, versions: Mapping[str, str]) -> Check:
    """The checkout at ``path``, held against the toolchain's tag.

    Args:
        toolchain: Whose commands are to run.
        path: As configured.
        versions: What is installed in the environment, by normalized name; empty where that is not known.
    """
    source = toolchain.source
    expected = f"a checkout of {source.revision}"
    if not (path / toolchain.workdir).is_dir():
        found = f"{path} has no {toolchain.workdir}" if path.is_dir() else f"{path} does not exist"
        clone = f"git clone {source.repository} {path} && git -C {path} checkout {source.revision}"
        return Check("examples", "fail", found, expected, _WHY, clone)
    head = probe.examples_revision(path)
    if head is None:
        why = "without git and its history nobody can tell which version the scripts are of"
        return Check("examples", "unknown", str(path), expected, why)
    if head == probe.revision_of(path, source.revision):
        return Check("examples", "ok", f"{path} at {source.revision}")
    tag = _tag_of_installed(toolchain, versions)
    if tag is not None and head == probe.revision_of(path, tag):
        why = f"the tag of the installed tensorrt_llm; the commands were written for {source.revision}"
        return Check("examples", "warn", f"{path} at {tag}", expected, why)
    way = f"git -C {path} fetch --tags && git -C {path} checkout {source.revision}"
    return Check("examples", "fail", f"{path} at {head[:12]}", expected, _WHY, way)


def _tag_of_installed(toolchain: Toolchain, versions: Mapping[str, str]) -> str | None:
    """The tag of the installed tensorrt_llm, where the toolchain accepts it: scripts of its own version fit it."""
    version = versions.get("tensorrt-llm")
    if version is None or not accepts(toolchain.pins["tensorrt_llm"], version):
        return None
    return f"v{version.partition('+')[0]}"
