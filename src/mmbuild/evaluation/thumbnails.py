"""Thumbnails and digests of the images that questions are about."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmbuild.base.files import entries, read_file
from mmbuild.models.images import PICTURE_BYTES, open_picture

EDGE = 144
"""Longest side of a thumbnail, pixels."""


def small(image: Any) -> bytes:
    """Thumbnail of ``image``: a PNG file of at most EDGE x EDGE pixels.

    Args:
        image: Anything that :func:`mmbuild.models.images.open_picture` takes.
    """
    from PIL import Image

    picture = open_picture(image).image.copy()
    picture.thumbnail((EDGE, EDGE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def digest(image: Any) -> str:
    """BLAKE3, hex, of the size and the RGB pixels: independent of the file format."""
    from blake3 import blake3

    picture = open_picture(image).image
    return blake3(f"{picture.width}x{picture.height}:".encode() + picture.tobytes()).hexdigest()


def save(images: Sequence[Any], directory: Path) -> None:
    """Save thumbnails as ``1.png``, ``2.png``, ..."""
    directory.mkdir()
    for number, image in enumerate(images, 1):
        (directory / f"{number}.png").write_bytes(small(image))


def load(directory: Path) -> Mapping[int, bytes]:
    """Load the thumbnails that :func:`save` wrote, by number."""
    return {
        int(path.stem): read_file(path, PICTURE_BYTES)
        for path in entries(directory)
        if path.suffix == ".png" and path.stem.isdecimal()
    }
