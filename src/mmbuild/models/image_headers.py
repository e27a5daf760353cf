"""Checks the counts stated in an image file, before a library decodes it.

Covers only what Pillow processes too early or without limits: while opening a file it allocates memory for a WebP
image and one object per strip of a TIFF; it processes chunks, segments, blocks and tags one by one, decodes every
scan of a JPEG, and counts all frames. Counting stops one above the limit.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

MOST_STRIPS = 100_000
"""Strips of a TIFF; a page of 100 megapixels in strips of one row has 12,000."""
MOST_FRAMES = 10_000
"""Frames of a GIF; enough for an animation of five minutes."""
MOST_PARTS = 100_000
"""Chunks of a PNG, segments of a JPEG, blocks of a GIF, tags of a TIFF; each takes a few microseconds."""
MOST_VALUES = 500_000
"""Numbers in the tags of one page of a TIFF: offset and size of each strip, and the colour table. Each becomes an
object in memory."""
MOST_SCANS = 50
"""Scans of a JPEG; progressive ones have ten, with four colours eighteen. Each is decoded over the whole image."""
MOST_COMMENT = 100_000
"""Bytes of comments in a GIF, which are concatenated piece by piece."""
RUN_LENGTH_BYTES, RUN_LENGTH_PIXELS = 4_000_000, 16_000_000
"""Size of a run-length encoded BMP, which Pillow decodes in Python, pixel by pixel."""

_STRIPS = (273, 324, 279, 325)  # offsets and sizes of strips and of tiles, TIFF 6.0
_BIG = 43
# Bytes of one value by type, TIFF 6.0 and BigTIFF.
_TAG_SIZES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_AS_BYTES = (1, 2, 7)  # types whose values stay bytes or text
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # excludes stuffing, fill bytes and restart markers
_SCAN, _END, _ALONE = 0xDA, 0xD9, (0x01, 0xD8, 0xD9)


# Beginnings of files that are often given as pictures, by offset and bytes, and what they are.
_OTHERS: tuple[tuple[int, tuple[bytes, ...], str], ...] = (
    (4, (b"ftypheic", b"ftypheix", b"ftyphevc", b"ftypheim", b"ftypmif1", b"ftypmsf1"), "a HEIC file"),
    (4, (b"ftypavif", b"ftypavis"), "an AVIF file"),
    (4, (b"ftypqt", b"ftypmp4", b"ftypisom", b"ftypM4V"), "a video"),
    (0, (b"\x00\x00\x00\x0cjP  ", b"\xff\x4f\xff\x51"), "a JPEG 2000 file"),
    (0, (b"\x00\x00\x00\x0cJXL ", b"\xff\x0a"), "a JPEG XL file"),
    (0, (b"8BPS",), "a Photoshop file"),
    (0, (b"%PDF",), "a PDF document"),
    (0, (b"<svg", b"<?xml"), "an SVG drawing or other XML"),
    (0, (b"<!DOCTYPE", b"<!doctype", b"<html"), "a web page"),
    (0, (b"version https://git-lfs",), "a git-LFS pointer: run `git lfs pull`"),
)


def other_format(start: bytes) -> str | None:
    """What a file is that is none of the pictures that are read, by its first 32 bytes; None if it is unknown."""
    return next((name for at, beginnings, name in _OTHERS if start[at:].startswith(beginnings)), None)


def excess(data: bytes) -> str | None:
    """The limit that an image file exceeds, as the end of a sentence; None if it exceeds none."""
    for start, check in _CHECKS:
        if data.startswith(start):
            return check(data)
    return None


def _png(data: bytes) -> str | None:
    at = 8
    for _ in range(MOST_PARTS):
        if at >= len(data):
            return None
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return f"it has more than {MOST_PARTS:,} chunks"


def _jpeg(data: bytes) -> str | None:
    """ITU T.81, annex B. A stray byte between segments counts like a segment."""
    at, parts, scans = 2, 0, 0
    while (found := _JPEG_MARKER.search(data, at)) is not None:
        parts += 1 if scans else 1 + found.start() - at
        kind, at = data[found.start() + 1], found.end()
        if kind == _END and scans:
            return None
        scans += kind == _SCAN
        if scans > MOST_SCANS:
            return f"it has more than {MOST_SCANS} scans"
        if parts > MOST_PARTS:
            break
        if kind not in _ALONE:
            at += max(2, int.from_bytes(data[at : at + 2], "big"))
    if not scans:
        parts += len(data) - at
    return f"it has more than {MOST_PARTS:,} segments" if parts > MOST_PARTS else None


def _gif(data: bytes) -> str | None:
    """GIF89a. Readers skip meaningless bytes between blocks."""
    frames = comment = 0
    try:
        at = 13 + _colours(data[10])
        for _ in range(MOST_PARTS):
            kind = data[at]
            if kind == 0x3B:
                return None
            if kind not in (0x21, 0x2C):
                at += 1
                continue
            frames += kind == 0x2C
            is_comment = kind == 0x21 and data[at + 1] == 0xFE
            at += 2 if kind == 0x21 else 11 + _colours(data[at + 9])
            while data[at]:
                comment += data[at] if is_comment else 0
                at += 1 + data[at]
            at += 1
            if frames > MOST_FRAMES:
                return f"it has more than {MOST_FRAMES:,} frames"
            if comment > MOST_COMMENT:
                return f"it has more than {MOST_COMMENT:,} bytes of comments"
    except IndexError:
        return None  # truncated; the decoder reports it
    return f"it has more than {MOST_PARTS:,} blocks"


def _tiff(data: bytes) -> str | None:
    if tiff_strips(data) > MOST_STRIPS:
        return f"it has more than {MOST_STRIPS:,} strips"
    tags = size = 0
    for page in _tiff_pages(data):
        tags += len(page)
        if tags > MOST_PARTS:
            return f"it has more than {MOST_PARTS:,} tags"
        size += sum(count * _TAG_SIZES.get(kind, 1) for kind, count in page)
        # Pages may share a profile, but within one page nothing is stored twice.
        if size > 2 * len(data):
            return "its tags state more bytes than it has"
        if sum(count for kind, count in page if kind not in _AS_BYTES) > MOST_VALUES:
            return f"its tags hold more than {MOST_VALUES:,} numbers"
    return None


def _bmp(data: bytes) -> str | None:
    """BITMAPINFOHEADER or later; older headers have no compression."""
    try:
        size, width, height, _, compression = struct.unpack_from("<LllLL", data, 14)
    except struct.error:
        return None
    if size < 40 or compression not in (1, 2):
        return None
    if len(data) > RUN_LENGTH_BYTES or abs(width * height) > RUN_LENGTH_PIXELS:
        return f"it is run-length encoded and larger than {RUN_LENGTH_BYTES:,} bytes or {RUN_LENGTH_PIXELS:,} pixels"
    return None


_CHECKS = (
    (b"BM", _bmp),
    (b"\x89PNG\r\n\x1a\n", _png),
    (b"\xff\xd8", _jpeg),
    (b"GIF8", _gif),
    (b"II", _tiff),
    (b"MM", _tiff),
)


def webp_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of a WebP file (RFC 9649); None if it states none."""
    kind = data[12:16]
    if kind == b"VP8X" and len(data) >= 30:
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L" and len(data) >= 25:
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 " and len(data) >= 30:
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


def tiff_strips(data: bytes) -> int:
    """The largest number of strips or tiles stated in the first directory of a TIFF or BigTIFF file."""
    tags = ((tag, count) for tag, _, count in _tiff_directory(data, _tiff_start(data))[0])
    return max((count for tag, count in tags if tag in _STRIPS), default=0)


def _tiff_pages(data: bytes) -> Iterator[list[tuple[int, int]]]:
    """Type and number of values of each tag, page by page."""
    at, seen = _tiff_start(data), set[int]()
    while at and at not in seen and len(seen) < MOST_PARTS:
        seen.add(at)
        tags, at = _tiff_directory(data, at)
        yield [(kind, count) for _, kind, count in tags]


def _tiff_start(data: bytes) -> int:
    """Offset of the first directory; 0 if the file is truncated."""
    order, big = _tiff_form(data)
    try:
        return int(struct.unpack_from(f"{order}Q" if big else f"{order}L", data, 8 if big else 4)[0])
    except struct.error:
        return 0


def _tiff_directory(data: bytes, start: int) -> tuple[list[tuple[int, int, int]], int]:
    """Number, type and count of each tag of a directory, and the offset of the next one (0: none)."""
    order, big = _tiff_form(data)
    tags: list[tuple[int, int, int]] = []
    if not start:
        return tags, 0
    form, size, head = (f"{order}HHQ", 20, 8) if big else (f"{order}HHL", 12, 2)
    try:
        (count,) = struct.unpack_from(f"{order}Q" if big else f"{order}H", data, start)
        first = start + head
        for item in range(min(count, 65_536)):
            tags.append(struct.unpack_from(form, data, first + size * item))
        (after,) = struct.unpack_from(f"{order}Q" if big else f"{order}L", data, first + size * count)
        return tags, int(after)
    except (struct.error, OverflowError):
        return tags, 0  # truncated; the decoder reports it


def _tiff_form(data: bytes) -> tuple[str, bool]:
    """Byte order, and whether it is a BigTIFF."""
    order = ">" if data[:2] == b"MM" else "<"
    return order, data[2:4] == struct.pack(f"{order}H", _BIG)


def _colours(flags: int) -> int:
    """Size in bytes of the colour table that follows."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0
