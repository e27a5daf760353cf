"""The pictures that questions are about: small copies for a report, and what tells two of them apart."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmbuild.base.files import entries, read_file
from mmbuild.models.images import PICTURE_BYTES, open_picture

EDGE = 144
"""Longest side of a small copy, pixels."""


def small(image: Any) -> bytes:
    """``image`` as a PNG file of at most EDGE x EDGE pixels.

    Args:
        image: Whatever :func:`mmbuild.models.images.open_picture` takes.
    """
    from PIL import Image

    picture = open_picture(image).image.copy()
    picture.thumbnail((EDGE, EDGE), Image.Resampling.LANCZOS)
    held = io.BytesIO()
    picture.save(held, "PNG", optimize=True)
    return held.getvalue()


def digest(image: Any) -> str:
    """BLAKE3, hex, of the size and the RGB pixels: equal for equal pictures, however they are stored."""
    from blake3 import blake3

    picture = open_picture(image).image
    return blake3(f"{picture.width}x{picture.height}:".encode() + picture.tobytes()).hexdigest()


def save(images: Sequence[Any], directory: Path) -> None:
    """Small copies as ``1.png``, ``2.png``, ..."""
    directory.mkdir()
    for number, image in enumerate(images, 1):
        (directory / f"{number}.png").write_bytes(small(image))


def load(directory: Path) -> Mapping[int, bytes]:
    """What :func:`save` left, by number."""
    return {
        int(path.stem): read_file(path, PICTURE_BYTES)
        for path in entries(directory)
        if path.suffix == ".png" and path.stem.isdecimal()
    }
