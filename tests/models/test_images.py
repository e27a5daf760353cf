"""Pictures look to a model as they look to a person."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms
from transformers.image_utils import load_image

from mmbuild.models.errors import EngineError
from mmbuild.models.image_files import problem
from mmbuild.models.images import PictureError, open_picture
from support.errors import refused

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
LOSSLESS = ["png", "tiff", "webp", "bmp", "gif"]


def noise(seed=0, size=(30, 20)):
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8))


def saved(image, path, **options):
    options = {"lossless": True} | options if path.suffix == ".webp" else options
    image.save(path, **options)
    return path


def pixels(image):
    return np.asarray(image.convert("RGB"))


def only(value):
    """The one colour of a picture."""
    (colour,) = {tuple(int(c) for c in pixel) for pixel in np.asarray(value.image).reshape(-1, 3)}
    return colour


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1"])
@pytest.mark.parametrize("kind", [*LOSSLESS, "jpg"])
def test_plain_pictures_have_the_pixels_of_transformers(tmp_path, kind, mode):
    image = noise().convert(mode) if not (kind == "jpg" and mode in "P1") else noise().convert("L")
    path = saved(image, tmp_path / f"a.{kind}")
    opened = open_picture(path)
    assert np.array_equal(np.asarray(opened.image), pixels(load_image(str(path))))
    assert opened.conversion is None


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("kind", ["png", "tiff", "webp"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_picture_is_turned_as_its_orientation_says(tmp_path, mode, kind, orientation):
    image, exif = noise().convert(mode), Image.Exif()
    exif[0x0112] = orientation
    path = saved(image, tmp_path / f"a.{kind}", exif=exif)
    assert np.array_equal(np.asarray(open_picture(path).image), pixels(image.transpose(TURNS[orientation])))


@pytest.mark.parametrize("orientation", TURNS)
def test_a_photograph_is_turned_as_transformers_turns_it(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(noise(), tmp_path / "a.jpg", exif=exif, quality=95)
    assert np.array_equal(np.asarray(open_picture(path).image), pixels(load_image(str(path))))


def test_a_compressed_tiff_is_turned_once(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(noise(), tmp_path / "a.tiff", exif=exif, compression="tiff_lzw")
    assert np.array_equal(np.asarray(open_picture(path).image), pixels(noise().transpose(TURNS[6])))


def test_a_picture_that_is_open_already_is_turned_too(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 8
    path = saved(noise(), tmp_path / "a.png", exif=exif)
    with Image.open(path) as opened:
        assert open_picture(opened).image.size == (20, 30)


def test_orientation_data_that_make_no_sense_turn_nothing(tmp_path):
    # Pillow warns of it.
    path = saved(noise(), tmp_path / "a.jpg", exif=b"Exif\0\0MM\0\x2a\0\0\0\x08\0\xff" + b"\xff" * 40)
    assert open_picture(path).image.size == (30, 20)


def test_an_arrays_pixels_are_its_own():
    values = np.asarray(noise())
    assert np.array_equal(np.asarray(open_picture(values).image), values)
    assert np.array_equal(np.asarray(open_picture(values[:, :, 0]).image)[:, :, 1], values[:, :, 0])
    assert np.array_equal(np.asarray(open_picture(values[:, :, :1]).image)[:, :, 2], values[:, :, 0])


# What the values below must become is computed by hand: alpha a over white is c * a + 255 * (1 - a).
@pytest.mark.parametrize("kind", ["png", "webp", "tiff"])
def test_transparency_is_white(tmp_path, kind):
    path = saved(Image.new("RGBA", (4, 4), (200, 0, 100, 0)), tmp_path / f"a.{kind}")
    opened = open_picture(path)
    assert only(opened) == (255, 255, 255)
    assert opened.conversion == "transparency composited on white"


def test_half_transparency_is_half_white():
    red, green, blue = only(open_picture(Image.new("RGBA", (4, 4), (200, 0, 100, 51))))
    assert (red, green, blue) == (244, 204, 224)


def test_grey_with_alpha_is_composited(tmp_path):
    path = saved(Image.new("LA", (4, 4), (0, 51)), tmp_path / "a.png")
    assert only(open_picture(path)) == (204, 204, 204)


@pytest.mark.parametrize("mode", ["La", "RGBa"])
def test_premultiplied_alpha_is_composited(mode):
    straight = Image.new(
        {"La": "LA", "RGBa": "RGBA"}[mode], (4, 4), {"La": (100, 0), "RGBa": (100, 50, 0, 0)}[mode]
    )
    assert only(open_picture(straight.convert(mode))) == (255, 255, 255)


def test_a_palettes_transparent_colour_is_white(tmp_path):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    assert only(open_picture(saved(image, tmp_path / "plain.png"))) == (10, 20, 30)
    assert only(open_picture(saved(image, tmp_path / "a.png", transparency=1))) == (255, 255, 255)
    assert only(open_picture(saved(image, tmp_path / "a.gif", transparency=1))) == (255, 255, 255)
    assert only(open_picture(saved(image, tmp_path / "bytes.png", transparency=b"\xff\x00"))) == (
        255,
        255,
        255,
    )


@pytest.mark.parametrize(("mode", "colour"), [("RGB", (10, 20, 30)), ("L", 40), ("1", 0)])
def test_a_transparent_colour_of_a_picture_without_palette_is_white(tmp_path, mode, colour):
    path = saved(Image.new(mode, (4, 4), colour), tmp_path / "a.png", transparency=colour)
    assert only(open_picture(path)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("value", "grey"), [(0, 0), (128, 0), (129, 1), (32768, 128), (65535, 255), (257 * 77, 77)]
)
@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_16_bit_grey_is_scaled(tmp_path, kind, value, grey):
    values = np.full((4, 4), value, np.uint16)
    values[0, 0] = 65535
    opened = open_picture(saved(Image.fromarray(values), tmp_path / f"a.{kind}"))
    assert np.asarray(opened.image)[1, 1].tolist() == [grey] * 3
    assert opened.conversion == "16-bit grey scaled to 8 bits"


def test_big_endian_16_bit_grey_is_scaled(tmp_path):
    image = Image.frombytes("I;16B", (2, 1), bytes([0xFF, 0xFF, 0x80, 0x00]))
    assert np.asarray(open_picture(saved(image, tmp_path / "a.tiff")).image)[0, :, 0].tolist() == [255, 128]


def test_16_bit_grey_with_a_transparent_value_is_white_there(tmp_path):
    values = np.array([[1000, 65535, 40000]], np.uint16)
    path = saved(Image.fromarray(values), tmp_path / "a.png", transparency=1000)
    assert np.asarray(open_picture(path).image)[0, :, 0].tolist() == [255, 255, 156]


def test_a_16_bit_tiff_whose_zero_is_white_is_not_inverted(tmp_path):
    values = np.array([[0, 65535, 257]], np.uint16)
    path = saved(Image.fromarray(values), tmp_path / "a.tiff", tiffinfo={262: 0})
    assert np.asarray(open_picture(path).image)[0, :, 0].tolist() == [255, 0, 254]


def png(size, bits, colour_type, rows, transparent):
    """A PNG of a bit depth that Pillow does not write; ``transparent`` holds the samples of its tRNS chunk."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", *size, bits, colour_type, 0, 0, 0)
    colour = b"".join(struct.pack(">H", sample) for sample in transparent)
    packed = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = ((b"IHDR", header), (b"tRNS", colour), (b"IDAT", packed), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*named) for named in chunks)


@pytest.mark.parametrize(("bits", "row", "transparent", "other"), [(2, 0x1B, 1, 170), (4, 0x7A, 7, 170)])
def test_the_transparent_value_of_a_png_with_few_bits_is_white(bits, row, transparent, other):
    width = 8 // bits
    opened = open_picture(png((width, 1), bits, 0, [bytes([row])], [transparent]))
    seen = pixels(opened.image)[0, :, 0].tolist()
    samples = [row >> (8 - bits * (place + 1)) & ((1 << bits) - 1) for place in range(width)]
    assert seen == [255 if one == transparent else one * 255 // ((1 << bits) - 1) for one in samples]
    assert other in seen
    assert opened.conversion == "transparency composited on white"


def test_a_transparent_colour_of_16_bits_per_channel_is_refused_where_it_may_be_seen():
    row = struct.pack(">HHH", 0x1234, 0x5678, 0x9ABC)
    with pytest.raises(PictureError, match="a transparent colour of 16 bits per channel"):
        open_picture(png((1, 1), 16, 2, [row], [0x1234, 0x5678, 0x9ABC]))
    opened = open_picture(png((1, 1), 16, 2, [row], [0x1134, 0x5678, 0x9ABC]))
    assert only(opened) == (0x12, 0x56, 0x9A)
    assert opened.conversion is None


def tiff(values, photometric, sample_format):
    """An uncompressed TIFF of one channel; Pillow writes neither of these kinds."""
    bits, data, (height, width) = values.dtype.itemsize * 8, values.tobytes(), values.shape
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 134, 277: 1, 278: height}
    tags |= {279: len(data), 339: sample_format}
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries.ljust(124, b"\0") + data


@pytest.mark.parametrize(("photometric", "seen"), [(0, [255, 191, 0]), (1, [0, 64, 255])])
def test_floats_are_inverted_where_zero_is_white(photometric, seen):
    opened = open_picture(tiff(np.array([[0, 0.25, 1]], dtype="<f4"), photometric, 3))
    assert pixels(opened.image)[0, :, 0].tolist() == seen


@pytest.mark.parametrize(("kind", "why"), [("i1", "its values are signed integers"), ("<i2", "mode `I`")])
def test_signed_integers_are_refused(kind, why):
    with pytest.raises(PictureError, match=why):
        open_picture(tiff(np.array([[-32, 0, 31]], dtype=kind), 1, 2))


def test_16_bit_grey_that_uses_12_bits_is_refused():
    values = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    error = refused(EngineError, "MM517", open_picture, Image.fromarray(values))
    assert "would be almost black" in error.message
    assert "4095" in error.message


def test_a_16_bit_picture_that_is_black_is_black():
    assert only(open_picture(Image.fromarray(np.zeros((4, 4), np.uint16)))) == (0, 0, 0)


@pytest.mark.parametrize(("value", "grey"), [(0.0, 0), (0.5, 128), (1.0, 255), (0.2, 51)])
def test_floats_from_0_to_1_are_scaled(tmp_path, value, grey):
    values = np.array([[value, 1.0]], np.float32)
    opened = open_picture(saved(Image.fromarray(values), tmp_path / "a.tiff"))
    assert np.asarray(opened.image)[0, 0].tolist() == [grey] * 3
    assert "float" in opened.conversion


@pytest.mark.parametrize("values", [[0.0, 200.0], [-1.0, 1.0], [np.nan, 0.5], [np.inf, 0.5], [0.0, 0.01]])
def test_floats_without_an_agreed_look_are_refused(values):
    refused(EngineError, "MM517", open_picture, Image.fromarray(np.array([values], np.float32)))


def test_32_bit_integers_are_refused(tmp_path):
    values = np.array([[0, 1 << 20]], np.int32)
    path = saved(Image.fromarray(values), tmp_path / "a.tiff")
    assert "mode `I`" in refused(EngineError, "MM517", open_picture, path).message


def test_cmyk_without_a_profile_is_converted(tmp_path):
    path = saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), tmp_path / "a.tiff")
    opened = open_picture(path)
    assert only(opened) == (255, 0, 0)
    assert "CMYK" in opened.conversion


def test_a_cmyk_photograph_is_not_a_negative(tmp_path):
    path = saved(Image.new("CMYK", (16, 16), (0, 0, 0, 0)), tmp_path / "a.jpg", quality=95)
    assert min(only(open_picture(path))) > 250


def cmyk_profile(lab_of_no_ink, lab_of_ink):
    """An ICC profile (ICC.1:2004, lut8Type) in which any ink at all gives one colour, and no ink another."""
    corners = bytes(lab_of_no_ink) + bytes(lab_of_ink) * 15
    ramp = bytes(range(256))
    table = struct.pack(">4s4xBBBx9i", b"mft1", 4, 3, 2, *(65536, 0, 0, 0, 65536, 0, 0, 0, 65536))
    table += ramp * 4 + corners + ramp * 3
    text = b"desc" + bytes(4) + struct.pack(">I", 2) + b"x\0" + bytes(78)
    text += b"\0" * (-len(text) % 4)
    white = struct.pack(">4s4x3i", b"XYZ ", 63190, 65536, 54061)
    start, parts, rows = 128 + 4 + 3 * 12, b"", b""
    for name, part in ((b"desc", text), (b"wtpt", white), (b"A2B0", table)):
        rows += struct.pack(">4sII", name, start + len(parts), len(part))
        parts += part + b"\0" * (-len(part) % 4)
    header = struct.pack(">I4sI4s4s4s", start + len(parts), b"lcms", 0x02400000, b"prtr", b"CMYK", b"Lab ")
    header += struct.pack(">6H4s", 2020, 1, 1, 0, 0, 0, b"acsp") + bytes(28)
    header += struct.pack(">3i", 63190, 65536, 54061) + bytes(48)
    return header[:128] + struct.pack(">I", 3) + rows + parts


def test_cmyk_goes_through_its_profile(tmp_path):
    # No ink is black in this profile, where the usual formula says white.
    profile = cmyk_profile((0, 128, 128), (255, 128, 128))
    bare = saved(Image.new("CMYK", (8, 8), (0, 0, 0, 0)), tmp_path / "bare.tiff", icc_profile=profile)
    inked = saved(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), tmp_path / "inked.tiff", icc_profile=profile)
    assert max(only(open_picture(bare))) <= 2
    assert min(only(open_picture(inked))) >= 253
    assert open_picture(bare).conversion == "CMYK converted through its ICC profile"


def test_a_profile_that_does_not_fit_cmyk_is_refused(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = saved(Image.new("CMYK", (8, 8)), tmp_path / "a.tiff", icc_profile=profile)
    assert "ICC" in refused(EngineError, "MM517", open_picture, path).message


def test_lab_is_converted():
    # L* 100 % and no chroma is white, L* 0 is black.
    assert min(only(open_picture(Image.new("LAB", (2, 2), (255, 128, 128))))) >= 253
    assert max(only(open_picture(Image.new("LAB", (2, 2), (0, 128, 128))))) <= 2


@pytest.mark.parametrize("kind", ["gif", "webp", "png", "tiff"])
def test_of_several_frames_the_first_is_taken(tmp_path, kind):
    frames = [Image.new("RGB", (6, 6), colour) for colour in ("#ff0000", "#00ff00", "#0000ff")]
    path = saved(frames[0], tmp_path / f"a.{kind}", save_all=True, append_images=frames[1:])
    opened = open_picture(path)
    assert only(opened) == (255, 0, 0)
    assert opened.conversion == "first of 3 frames"


def test_the_second_picture_of_a_phone_is_not_reported_as_a_frame(tmp_path):
    path = tmp_path / "a.jpg"
    noise().save(path, format="MPO", save_all=True, append_images=[noise(1)])
    assert open_picture(path).conversion is None


@pytest.mark.parametrize("mode", ["HSV", "I"])
def test_other_modes_are_refused(mode):
    refused(EngineError, "MM517", open_picture, Image.new(mode, (4, 4)))


@pytest.mark.parametrize("format_name", ["PPM", "ICO", "TGA", "PCX", "EPS"])
def test_other_formats_are_refused_whatever_they_are_called(tmp_path, format_name):
    path = tmp_path / "a.png"
    noise(size=(16, 16)).save(path, format=format_name)
    assert (
        "not a picture in one of these formats" in refused(EngineError, "MM517", open_picture, path).message
    )


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(100), "a HEIC file"),
        (b"\x00\x00\x00\x1cftypavif\x00\x00\x00\x00" + bytes(100), "an AVIF file"),
        (b"\x00\x00\x00\x0cjP  \r\n\x87\n" + bytes(100), "a JPEG 2000 file"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing or other XML"),
        (b"%PDF-1.7\n", "a PDF document"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a git-LFS pointer: run `git lfs pull`"),
    ],
)
def test_files_that_are_often_taken_for_pictures_are_named(tmp_path, content, name):
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    assert refused(EngineError, "MM517", open_picture, path).message.endswith(f"it is {name}")
    assert problem(path) == f"is {name}"


def test_a_format_is_known_by_its_content(tmp_path):
    path = tmp_path / "a.png"
    noise().save(path, format="BMP")
    assert np.array_equal(np.asarray(open_picture(path).image), np.asarray(noise()))


def test_a_pipe_is_refused_at_once(tmp_path):
    path = tmp_path / "a.png"
    os.mkfifo(path)
    assert "not a regular file" in refused(EngineError, "MM517", open_picture, path).message


@pytest.mark.parametrize("kind", [*LOSSLESS, "jpg"])
@given(
    cut=st.integers(0, 2000), flips=st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 255)), max_size=6)
)
def test_damaged_files_are_read_or_refused(kind, cut, flips):
    import tempfile
    from pathlib import Path

    held = io.BytesIO()
    noise(size=(24, 16)).save(held, {"jpg": "JPEG", "tiff": "TIFF"}.get(kind, kind.upper()))
    data = bytearray(held.getvalue()[: -cut or None])
    for place, flip in flips:
        if place < len(data):
            data[place] ^= flip
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "a")
        path.write_bytes(data)
        assert outcome(path) in ("RGB", "MM517")


def outcome(path):
    """The mode of the opened picture, or the code of its refusal."""
    try:
        return open_picture(path).image.mode
    except EngineError as error:
        return error.code


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "No such file"),
        (b"", "not a picture"),
        (b"GIF89a", "not a picture"),
        (b"hello, this is text", "not a picture"),
    ],
)
def test_a_file_that_is_not_a_picture_is_named(tmp_path, content, why):
    path = tmp_path / "a.png"
    if content is not None:
        path.write_bytes(content)
    error = refused(EngineError, "MM517", open_picture, path)
    assert str(path) in error.message
    assert why in error.message
    assert "PNG" in error.hint


def test_a_truncated_picture_is_named(tmp_path):
    path = tmp_path / "a.png"
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (200, 200, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:5000])
    refused(EngineError, "MM517", open_picture, path)


def test_a_directory_is_not_a_picture(tmp_path):
    assert "directory" in refused(EngineError, "MM517", open_picture, tmp_path).message


def test_a_picture_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    Image.new("1", (2000, 2000)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    refused(EngineError, "MM517", open_picture, path)


@pytest.mark.parametrize("value", [np.zeros((4, 4, 7), np.uint8), np.zeros(3), 7, None])
def test_objects_that_are_not_pictures_are_rejected(value):
    refused(EngineError, "MM517", open_picture, value)


def test_a_pictures_png_holds_its_pixels():
    opened = open_picture(Image.new("RGBA", (4, 4), (200, 0, 100, 51)))
    with Image.open(io.BytesIO(opened.png())) as again:
        assert np.array_equal(np.asarray(again), np.asarray(opened.image))
