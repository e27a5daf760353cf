"""What the beginning of a picture file states, read before a library decodes anything of it.

Only what Pillow itself acts on too early: it makes room for a WebP picture, and one object for each strip of a TIFF,
while it opens the file, and counts frames to the end.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

MOST_STRIPS = 100_000
"""Of a TIFF: a page of 100 megapixels in strips of one row has 12,000."""
MOST_FRAMES = 10_000
"""Of a GIF; an animation of five minutes."""

_STRIPS = (273, 324, 279, 325)  # offsets and sizes of strips and of tiles, TIFF 6.0
_CLASSIC, _BIG = 42, 43


def webp_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of a WebP file (RFC 9649); None where it states none."""
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
    """The largest number of strips or tiles that the first directory of a TIFF or BigTIFF file states."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    try:
        if order is None:
            return 0
        (version,) = struct.unpack_from(f"{order}H", data, 2)
        big = version == _BIG
        (start,) = struct.unpack_from(f"{order}Q" if big else f"{order}L", data, 8 if big else 4)
        (count,) = struct.unpack_from(f"{order}Q" if big else f"{order}H", data, start)
        form, size = (f"{order}HHQ", 20) if big else (f"{order}HHL", 12)
        first = start + (8 if big else 2)
        found = (struct.unpack_from(form, data, first + size * item) for item in range(min(count, 65_535)))
        return max((number for tag, _, number in found if tag in _STRIPS), default=0)
    except (struct.error, OverflowError):
        return 0  # cut off, which the decoder says


def gif_frames(data: bytes) -> int:
    """Frames of a GIF file (GIF89a), counted up to one more than MOST_FRAMES."""
    found = 0
    for block in _gif_blocks(data):
        found += block == 0x2C
        if found > MOST_FRAMES:
            break
    return found


def _gif_blocks(data: bytes) -> Iterator[int]:
    """The first byte of each block behind the header; stops where the file does."""
    try:
        at = 13 + _colours(data[10])
        while data[at] in (0x21, 0x2C):
            kind = data[at]
            yield kind
            at += 2 if kind == 0x21 else 11 + _colours(data[at + 9])
            while data[at]:
                at += 1 + data[at]
            at += 1
    except IndexError:
        return


def _colours(flags: int) -> int:
    """Bytes of a table of colours that follows."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0
