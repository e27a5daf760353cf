"""Which engines this process can load."""

from __future__ import annotations

from pathlib import Path

from mmbuild.backends.base import OwnServer
from mmbuild.backends.engine_dir.description import Description
from mmbuild.backends.table import backend
from mmbuild.base.errors import UsageError


def own_server(build: Path, description: Description) -> OwnServer | None:
    """How another program serves an engine which mmbuild does not load; None for those that it does."""
    return backend(description.backend).open(build, description, lambda _: None).own_server


def require_loadable(build: Path, description: Description) -> None:
    """Refuse engines of other backends.

    Raises:
        UsageError: MM873.
    """
    server = own_server(build, description)
    if server is not None:
        remark = f"; {server.remark}" if server.remark else ""
        raise UsageError(
            f"`{build}` has backend {description.backend}, and other programs serve what that builds",
            code="MM873",
            hint=f"run `{server.command}` where that server is installed{remark}",
        )
