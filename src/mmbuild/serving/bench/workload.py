"""What requests ask: pictures and prompts."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

from mmbuild.base.files import read_file
from mmbuild.models.calibration_data import synthetic_images
from mmbuild.models.images import PICTURE_BYTES, require_header

PROMPT = "What is in the picture?"
_TIMED_QUESTIONS, _MOST_QUESTIONS = 256, 1_000
_MIME_TYPES = (
    (b"\x89PNG", "image/png"),
    (b"\xff\xd8", "image/jpeg"),
    (b"RIFF", "image/webp"),
    (b"GIF8", "image/gif"),
    (b"II", "image/tiff"),
    (b"MM", "image/tiff"),
    (b"BM", "image/bmp"),
)
"""First bytes -> type, of the formats that `mmbuild.models.images` opens."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What every request of a sweep asks for.

    Attributes:
        images: Image files, used in turn; empty: drawn from ``seed``, a new picture for each request.
        image_size: Height and width of drawn pictures, pixels.
        prompts: Used in turn; empty if the model takes no text.
        max_tokens: Tokens of each answer, at most; exactly with ``ignore_eos``.
        ignore_eos: Whether answers go on after an end token.
        seed: For pictures and arrivals.
    """

    images: tuple[str, ...]
    image_size: int
    prompts: tuple[str, ...]
    max_tokens: int
    ignore_eos: bool
    seed: int


@dataclass(frozen=True, slots=True)
class Question:
    """A picture as a file's bytes, and a prompt; None if the model takes no text."""

    picture: bytes
    prompt: str | None

    @property
    def mime_type(self) -> str:
        """Type of the picture, such as ``image/png``."""
        return next((name for start, name in _MIME_TYPES if self.picture.startswith(start)), "image/png")


def questions(workload: Workload) -> Iterator[Question]:
    """Endless questions; the same ones for equal workloads.

    Raises:
        PictureError: MM517, an image file cannot be read.
    """
    pictures = cycle(_files(workload.images)) if workload.images else _drawn(workload)
    prompts: Sequence[str | None] = workload.prompts or (None,)
    return (Question(picture, prompt) for picture, prompt in zip(pictures, cycle(prompts), strict=False))


def next_questions(source: Iterator[Question], expected: int | None) -> list[Question]:
    """Questions of one run, which takes them in turn.

    Args:
        source: :func:`questions`, from which each run takes others: a server may remember what it has seen.
        expected: Number of requests; None if the time decides.
    """
    return list(islice(source, _TIMED_QUESTIONS if expected is None else min(expected, _MOST_QUESTIONS)))


def _files(paths: Sequence[str]) -> list[bytes]:
    for path in paths:
        require_header(Path(path))
    return [read_file(path, PICTURE_BYTES) for path in paths]


def _drawn(workload: Workload) -> Iterator[bytes]:
    size = (workload.image_size, workload.image_size)
    for picture, _ in synthetic_images.questions(size, ("",), sys.maxsize, workload.seed):
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        yield buffer.getvalue()
