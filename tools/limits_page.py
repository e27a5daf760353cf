"""docs/limits.md: the table of :mod:`mmbuild.base.limits`, and the limits of what is not JSON."""

from __future__ import annotations

from collections.abc import Iterator

from mmbuild.base import sandbox
from mmbuild.base.limits import CALIBRATION_BYTES, CALIBRATION_LINES, DIGITS, ENTRIES, LIMITS, MB, NAME, PATH
from mmbuild.models import image_headers, images
from mmbuild.schema.files import MAX_CHAIN
from mmbuild.schema.matrix import MAX_VARIANTS

_HEAD = """\
# Limits

<!-- Written by tools/make_docs.py from mmbuild.base.limits; change the numbers and their reasons there. -->

mmbuild reads files that somebody else may have written or damaged: models, recipes, calibration data, engines and
stores. Each kind has limits, far above what real files have and below what costs a gigabyte of memory or five
seconds. A file beyond them is refused with a code and its path; see [diagnostics.md](diagnostics.md), MM745 to MM759.

Only regular files are read. A named pipe, a device, a socket or a directory is refused at once (MM745). Links of a
model's directory are followed within the project's root, within what the user named on the command line, and within
one cache of the Hugging Face hub; others are refused (MM747), unless `--allow-outside` is given.

## Structured text

Values are counted as commas and opening brackets, of YAML as nodes. Numbers have at most {digits} digits; NaN,
infinities, byte order marks and halves of surrogate pairs are refused.

| Kind | Bytes | Depth | Values | Characters of one text | Why |
|---|---|---|---|---|---|
"""


def limits_page() -> str:
    """The page."""
    rows = (
        f"| {row.kind} | {row.size:,} | {row.depth} | {row.values:,} | {row.length:,} | {row.why} |\n"
        for row in LIMITS
    )
    others = (f"| {what} | {most} | {why} |\n" for what, most, why in _others())
    head = _HEAD.format(digits=DIGITS)
    return (
        head
        + "".join(rows)
        + "\n## Everything else\n\n| What | Most | Why |\n|---|---|---|\n"
        + "".join(others)
    )


def _others() -> Iterator[tuple[str, str, str]]:
    yield "Files of a directory", f"{ENTRIES:,}", "a model has dozens, a folder of pictures some thousands"
    yield "Bytes of a file's name", f"{NAME}", "what Linux's file systems take"
    yield "Bytes of a path", f"{PATH:,}", "under PATH_MAX, with room for the directory in front of it"
    yield "Recipes that extend one another", f"{MAX_CHAIN}", "a base, a family, a model and some more"
    yield "Variants of a matrix", f"{MAX_VARIANTS:,}", "more is another recipe"
    yield "Lines of calibration data", f"{CALIBRATION_LINES:,}", "some dozen are drawn"
    yield "Bytes of calibration data", f"{CALIBRATION_BYTES:,}", "a kilobyte a line"
    yield "Bytes of a picture file", f"{images.PICTURE_BYTES:,}", "a page of 16 bits, uncompressed"
    yield (
        "Pixels of a picture",
        f"{images.PIXELS:,}",
        "a telephone's camera gives 50 million; 12 bytes each while they are converted. A half of that with "
        "transparency, a third with 16 bits",
    )
    yield (
        "Pixels after the model's resize",
        f"{images.PIXELS // 10:,}",
        "120 bytes each in the arithmetic of image processors",
    )
    yield "Longer side of a picture by the shorter", f"{images.ASPECT}", "models resize by the shorter side"
    yield "Frames of a GIF", f"{image_headers.MOST_FRAMES:,}", "only the first one is used"
    parts = "each is read by itself"
    yield (
        "Chunks of a PNG, segments of a JPEG, blocks of a GIF, tags of a TIFF",
        f"{image_headers.MOST_PARTS:,}",
        parts,
    )
    yield (
        "Scans of a JPEG",
        image_headers.MOST_SCANS,
        "progressive ones have ten; each is decoded over the whole picture",
    )
    yield "Bytes of comments in a GIF", f"{image_headers.MOST_COMMENT:,}", "they are joined piece by piece"
    yield (
        "Bytes of a run-length encoded BMP",
        f"{image_headers.RUN_LENGTH_BYTES:,}",
        "Pillow decodes them in Python",
    )
    yield "Pixels of a run-length encoded BMP", f"{image_headers.RUN_LENGTH_PIXELS:,}", "likewise"
    yield (
        "Numbers in the tags of a TIFF's page",
        f"{image_headers.MOST_VALUES:,}",
        "two for each strip, and a table of colours",
    )
    yield "Strips of a TIFF", f"{image_headers.MOST_STRIPS:,}", "each costs an object in memory"
    yield "Seconds of a chat template", f"{sandbox.SECONDS}", "templates take milliseconds"
    yield "Memory of a chat template", f"{sandbox.MEMORY // MB} MB", "prompts have kilobytes"
