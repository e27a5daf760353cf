"""Pictures that were made to use up memory or time are refused before they are decoded, and before a resize."""

from __future__ import annotations

import io
import os
import struct
import time
import warnings
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from mmbuild.evaluation import thumbnails as small_copies
from mmbuild.models import image_files, image_headers
from mmbuild.models.families.shared.hugging_face import pixels_of
from mmbuild.models.families.vila.processor import shaped
from mmbuild.models.images import ASPECT, PIXELS, PictureError, open_as_saved, open_picture, require_pixels


def png(width: int, height: int, colour: int = 0, bits: int = 1) -> bytes:
    """A black PNG of any size in some hundred bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + body


def webp(width: int, height: int, kind: bytes = b"VP8X") -> bytes:
    if kind == b"VP8X":
        body = bytes([0, 0, 0, 0]) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    elif kind == b"VP8L":
        body = b"\x2f" + ((width - 1) | (height - 1) << 14).to_bytes(4, "little")
    else:
        body = b"\0\0\0\x9d\x01\x2a" + struct.pack("<HH", width, height)
    chunk = kind + struct.pack("<I", len(body)) + body + b"\0" * 16
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def tiff(strips: int, order: str = "<", big: bool = False) -> bytes:
    """A TIFF whose directory states ``strips`` strips."""
    mark = b"II" if order == "<" else b"MM"
    if big:
        head = mark + struct.pack(f"{order}HHHQ", 43, 8, 0, 16)
        return head + struct.pack(f"{order}QHHQQ", 1, 273, 4, strips, 8)
    return mark + struct.pack(f"{order}HL", 42, 8) + struct.pack(f"{order}HHHLL", 1, 273, 4, strips, 8)


def gif(frames: int) -> bytes:
    one = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    return b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff" + one * frames + b";"


BOMBS = {
    "long and thin": png(100_000, 1),
    "thin and long": png(1, 100_000),
    "too many pixels": png(30_000, 30_000),
    "more than ours, less than Pillow's": png(9_000, 9_000),
    "16 bits": png(6_000, 6_000, bits=16),
    "transparent": png(7_000, 7_000, colour=6, bits=8),
    "webp": webp(16_000, 16_000),
    "webp lossless": webp(16_000, 16_000, b"VP8L"),
    "webp lossy": webp(16_000, 16_000, b"VP8 "),
    "strips": tiff(50_000_000),
    "strips of another order": tiff(50_000_000, ">"),
    "strips of BigTIFF": tiff(50_000_000, big=True),
    "frames": gif(image_headers.MOST_FRAMES + 1),
}


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("data", BOMBS.values(), ids=BOMBS)
def test_a_bomb_is_refused_at_once_and_without_a_warning(tmp_path: Path, data: bytes, whole: bool) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(data)
    begun = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if whole:
            with pytest.raises(PictureError) as caught:
                open_picture(path)
            assert caught.value.code == "MM517"
        assert image_files.problem(path, whole=whole) is not None
    assert time.monotonic() - begun < 2


@pytest.mark.parametrize("read", [open_picture, small_copies.small, small_copies.digest])
@pytest.mark.parametrize("kind", ["pipe", "/dev/zero", "directory"])
def test_pictures_are_regular_files(tmp_path: Path, kind: str, read: object) -> None:
    path = tmp_path / "a.png"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to(kind)
    with pytest.raises(PictureError) as caught:
        read(path)  # type: ignore[operator]
    assert caught.value.code == "MM517"
    assert image_files.problem(path) is not None


@pytest.mark.parametrize(
    "text",
    [
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
        b"P6 1 1 255 \0\0\0",
        b"SIMPLE  =",
        b"\x00\x00\x01\x00\x01\x00",
        b"8BPS\0\1",
    ],
)
def test_other_formats_than_ours_start_no_other_program(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(text + b"\0" * 100)
    with pytest.raises(PictureError):
        open_picture(path)
    assert image_files.problem(path) is not None
    assert image_files.problem(path, whole=False) is not None


def test_pictures_of_usual_sizes_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.new("RGB", (4000, 3000), "red").save(path)
    assert open_picture(path).image.size == (4000, 3000)
    assert open_picture(Image.new("RGB", (ASPECT, 1))).image.size == (ASPECT, 1)


def test_frames_and_strips_of_usual_files_are_taken() -> None:
    held = io.BytesIO()
    frames = [Image.new("RGB", (4, 4), (n, 0, 0)) for n in range(5)]
    frames[0].save(held, "GIF", save_all=True, append_images=frames[1:])
    assert image_headers.excess(held.getvalue()) is None
    held = io.BytesIO()
    Image.new("RGB", (100, 500)).save(held, "TIFF")
    assert 1 <= image_headers.tiff_strips(held.getvalue()) <= 500
    for lossless in (True, False):
        held = io.BytesIO()
        Image.new("RGB", (31, 17)).save(held, "WEBP", lossless=lossless)
        assert image_headers.webp_size(held.getvalue()) == (31, 17)


@pytest.mark.parametrize("size", [{"shortest_edge": 336}, {"height": 896, "width": 672}])
def test_a_picture_that_grows_too_large_when_it_is_resized_is_refused(size: dict[str, int]) -> None:
    processor = SimpleNamespace(size=size)
    picture = SimpleNamespace(width=100_000, height=1)
    with pytest.raises(PictureError, match="pixels"):
        pixels_of(processor, [picture])


def test_a_picture_that_is_padded_to_a_square_has_a_limit_too() -> None:
    images = SimpleNamespace(image_mean=(0.5, 0.5, 0.5))
    with pytest.raises(PictureError):
        shaped(SimpleNamespace(width=50_000, height=1_000, size=(50_000, 1_000), mode="RGB"), images, "pad")


def test_a_limit_is_in_its_message() -> None:
    require_pixels(8_000, 8_000)
    with pytest.raises(PictureError, match=f"{PIXELS:,}"):
        require_pixels(8_001, 8_000)


def test_a_file_that_was_exchanged_is_looked_at_again(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (4, 4)).save(path)
    picture = open_picture(path)
    assert open_as_saved(picture).size == (4, 4)
    path.write_bytes(png(30_000, 30_000))
    with pytest.raises(PictureError):
        open_as_saved(picture)
    path.unlink()
    with pytest.raises(PictureError):
        open_as_saved(picture)


MANY = image_headers.MOST_PARTS + 1


def _tiff_of_tags(count: int, number: int, kind: int = 1) -> bytes:
    """A TIFF with ``count`` private tags of ``number`` values each, all at one place."""
    tags = b"".join(struct.pack("<HHLL", 40_000 + tag, kind, number, 0) for tag in range(count))
    return b"II" + struct.pack("<HLH", 42, 8, count) + tags + bytes(4 + 2 * number)


ENDLESS = {
    "chunks": (png(4, 4)[:33] + struct.pack(">I4sI", 0, b"prIv", 0) * MANY, "chunks"),
    "segments": (b"\xff\xd8" + b"\xff\xfe\0\x02" * MANY, "segments"),
    "stray bytes": (b"\xff\xd8\xff\xe0\0\x02" + bytes(MANY), "segments"),
    "scans": (b"\xff\xd8" + b"\xff\xda\0\x02\x11" * (image_headers.MOST_SCANS + 1), "scans"),
    "blocks": (gif(1)[:-1] + b"\x21\xf9\x04\0\0\0\0\0" * MANY, "blocks"),
    "bytes between blocks": (gif(1)[:-1] + bytes(MANY), "blocks"),
    "frames behind a stray byte": (gif(1)[:-1] + b"\0" + gif(image_headers.MOST_FRAMES)[19:], "frames"),
    "comment": (gif(1)[:-1] + b"\x21\xfe" + (b"\xff" + bytes(255)) * 400 + b"\0;", "comments"),
    "tags over one another": (_tiff_of_tags(50, 10_000), "more bytes"),
    "numbers": (_tiff_of_tags(1, image_headers.MOST_VALUES + 1, kind=3), "numbers"),
    "runs of one pixel": (
        b"BM" + struct.pack("<LLLLllHHL", 0, 0, 54, 40, 5_000, 4_000, 1, 8, 1) + bytes(20),
        "run-length",
    ),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_what_a_reader_would_step_through_for_minutes_is_refused(tmp_path: Path, name: str) -> None:
    data, what = ENDLESS[name]
    (tmp_path / "picture").write_bytes(data)

    with pytest.raises(PictureError, match=what):
        open_picture(tmp_path / "picture")


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("JPEG", {"progressive": True, "comment": b"\xff\xda" * 100}),
        ("JPEG", {"quality": 95, "exif": b"Exif\0\0" + b"\xff\xda" * 100}),
        ("PNG", {}),
        ("GIF", {"comment": b"x" * 5_000}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("BMP", {}),
    ],
)
def test_what_cameras_and_editors_write_is_taken(tmp_path: Path, form: str, options: dict[str, Any]) -> None:
    Image.effect_noise((300, 200), 80).convert("RGB").save(tmp_path / "picture", form, **options)
    # Telephones append a film to their pictures.
    with (tmp_path / "picture").open("ab") as file:
        file.write(b"\xff\xda\0\x02" * 200 if form == "JPEG" else b"")

    assert open_picture(tmp_path / "picture").image.size == (300, 200)
