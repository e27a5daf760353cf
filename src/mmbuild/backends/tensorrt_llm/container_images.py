"""Container images of toolchains, as recorded in lock files."""

from __future__ import annotations

import subprocess

from mmbuild.config.load import load
from mmbuild.config.model import Container

_SECONDS = 30


def image_of(version: str) -> dict[str, str]:
    """``image`` and ``digest`` of the container configured for toolchain ``version``; empty if there is none.

    The digest is the registry's if the image came from one, else the image's id on this host.
    """
    configured = load().toolchains.get(version)
    if configured is None or configured.container is None:
        return {}
    digest = image_digest(configured.container)
    return {"image": configured.container.image, **({"digest": digest} if digest else {})}


def image_digest(container: Container) -> str | None:
    """``sha256:...`` of an image; None if the container engine does not know it."""
    if "@sha256:" in container.image:
        return container.image.partition("@")[2]
    template = "{{range .RepoDigests}}{{println .}}{{end}}{{.Id}}"
    try:
        output = subprocess.run(
            [container.engine, "image", "inspect", "--format", template, container.image],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    first = next(iter(output.split()), "")
    digest = first.rpartition("@")[2]
    return digest if digest.startswith("sha256:") else f"sha256:{digest}" if digest else None
