"""What running a checkpoint with transformers needs, compared with this host."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata

from packaging.version import Version

from mmbuild.backends.compatibility import check
from mmbuild.backends.engine_dir.description import Description
from mmbuild.backends.hf.forms import FORMAT_VERSION
from mmbuild.base.checks import Check
from mmbuild.base.optional_packages import install_hint


def compatibility(description: Description) -> Iterator[Check]:
    """One check for each required package. A server brings its own."""
    yield _installed("transformers", "5.10", "torch")
    if description.llm["quant_algo"] is not None:
        yield _installed("compressed-tensors", FORMAT_VERSION, "hf")


def _installed(package: str, least: str, extra: str) -> Check:
    try:
        found = metadata.version(package)
    except metadata.PackageNotFoundError:
        found = "none"
    fits = found != "none" and Version(found) >= Version(least)
    why = "`mmbuild run` asks a checkpoint through transformers"
    return check(package, fits, found, f"{least} or newer", why, install_hint(extra))
