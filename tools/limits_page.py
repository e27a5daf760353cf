"""docs/limits.md: the table of :mod:`mmbuild.base.limits`, and the limits of what is not JSON."""

from __future__ import annotations

from collections.abc import Iterator

from mmbuild.base import sandbox
from mmbuild.base.limits import DATA_BYTES, DATA_LINES, DIGITS, ENTRIES, LIMITS, MB, NAME, PATH
from mmbuild.models import image_headers, images
from mmbuild.schema.files import MAX_CHAIN
from mmbuild.schema.matrix import MAX_VARIANTS
from mmbuild.serving.pictures import REQUEST_PIXELS
from mmbuild.serving.protocol import MOST_TEXT

_HEAD = """\
# Limits

<!-- Written by tools/make_docs.py from mmbuild.base.limits; change the numbers and their reasons there. -->

mmbuild reads files that somebody else may have written or damaged: models, recipes, calibration data, engines and
stores. The limits of each kind are far above real files, and low enough that reading a file takes less than a
gigabyte of memory and less than five seconds. A file beyond a limit is refused with a code and its path; see
[diagnostics.md](diagnostics.md), MM745 to MM759.

Only regular files are read. Named pipes, devices, sockets and directories are refused immediately (MM745). Links in a
model's directory are followed within the project's root, within paths named on the command line, and within one cache
of the Hugging Face hub; others are refused (MM747) unless `--allow-outside` is used.

## Structured text

The number of values is the number of commas and opening brackets; in YAML, the number of nodes. Numbers have at most
{digits} digits; NaN, infinities, byte order marks and unpaired surrogates are refused.

| Kind | Bytes | Depth | Values | Characters per string | Why |
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
        + "\n## Everything else\n\n| What | Limit | Why |\n|---|---|---|\n"
        + "".join(others)
    )


def _others() -> Iterator[tuple[str, str, str]]:
    yield "Files of a directory", f"{ENTRIES:,}", "a model has dozens, a folder of pictures a few thousand"
    yield "Bytes of a file's name", f"{NAME}", "the limit of Linux's file systems"
    yield "Bytes of a path", f"{PATH:,}", "below PATH_MAX, with room for the directory in front of it"
    yield "Recipes that extend one another", f"{MAX_CHAIN}", "a base, a family, a model and a few more"
    yield "Variants of a matrix", f"{MAX_VARIANTS:,}", "more variants belong in another recipe"
    yield (
        "Lines of calibration data, or of questions",
        f"{DATA_LINES:,}",
        "a few dozen are sampled; large data sets have 100,000",
    )
    yield "Bytes of calibration data, or of questions", f"{DATA_BYTES:,}", "a kilobyte per line"
    yield (
        "Bytes of a picture file",
        f"{images.PICTURE_BYTES:,}",
        "an uncompressed page with 16 bits per channel",
    )
    yield (
        "Pixels of a picture",
        f"{images.PIXELS:,}",
        "a phone camera has 50 million; each takes 12 bytes during conversion. Half of that with transparency, "
        "a third with 16 bits",
    )
    yield (
        "Characters of text in a request to the server",
        f"{MOST_TEXT:,}",
        "a context of 128,000 tokens has half as many",
    )
    yield (
        "Pixels of all pictures in a request to the server",
        f"{REQUEST_PIXELS:,}",
        "they are in memory at the same time; ten pictures of a phone",
    )
    yield (
        "Pixels after the model's resize",
        f"{images.PIXELS // 10:,}",
        "each takes 120 bytes in image processors",
    )
    yield (
        "Ratio of a picture's longer to its shorter side",
        f"{images.ASPECT}",
        "models resize to a fixed shorter side",
    )
    yield "Frames of a GIF", f"{image_headers.MOST_FRAMES:,}", "only the first one is used"
    parts = "each is read separately"
    yield (
        "Chunks of a PNG, segments of a JPEG, blocks of a GIF, tags of a TIFF",
        f"{image_headers.MOST_PARTS:,}",
        parts,
    )
    yield (
        "Scans of a JPEG",
        image_headers.MOST_SCANS,
        "progressive files have ten; each is decoded for the whole picture",
    )
    yield (
        "Bytes of comments in a GIF",
        f"{image_headers.MOST_COMMENT:,}",
        "they are concatenated piece by piece",
    )
    yield (
        "Bytes of a run-length encoded BMP",
        f"{image_headers.RUN_LENGTH_BYTES:,}",
        "Pillow decodes them in Python",
    )
    yield "Pixels of a run-length encoded BMP", f"{image_headers.RUN_LENGTH_PIXELS:,}", "the same"
    yield (
        "Numbers in the tags of a TIFF's page",
        f"{image_headers.MOST_VALUES:,}",
        "two per strip, and a colour table",
    )
    yield "Strips of a TIFF", f"{image_headers.MOST_STRIPS:,}", "each costs an object in memory"
    yield "Seconds of a chat template", f"{sandbox.SECONDS}", "templates take milliseconds"
    yield "Memory of a chat template", f"{sandbox.MEMORY // MB} MB", "prompts take kilobytes"
