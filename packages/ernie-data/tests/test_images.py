"""Decoding: what is accepted and how it comes out, and damaged files of many kinds."""

import io
import struct
import warnings
import zlib
from collections import Counter

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFile, PngImagePlugin

from ernie_core.api import DataError
from ernie_data.images import decode, read_size

LIMIT = 64_000_000
SIZE = (40, 24)  # width, height


def picture(size=SIZE) -> Image.Image:
    """A smooth colour picture whose every corner differs."""
    y, x = np.mgrid[: size[1], : size[0]]
    return Image.fromarray(
        np.stack([x * 255 // max(size[0] - 1, 1), y * 255 // max(size[1] - 1, 1), 120 + 0 * x], axis=-1).astype(np.uint8)
    )


def encoded(image: Image.Image, fmt: str, **options) -> bytes:
    data = io.BytesIO()
    image.save(data, format=fmt, **options)
    return data.getvalue()


def write(path, data: bytes):
    path.write_bytes(data)
    return path


def whole(path):
    """Decode without resizing."""
    return decode(path, bucket=read_size(path, max_pixels=LIMIT), max_pixels=LIMIT)


@pytest.mark.parametrize(
    ("name", "fmt", "options", "tolerance"),
    [
        ("a.png", "PNG", {}, 0),
        ("a.bmp", "BMP", {}, 0),
        ("a.webp", "WEBP", {"lossless": True}, 0),
        ("a.jpg", "JPEG", {"quality": 95, "subsampling": 0}, 8),
        ("wrong-name.png", "JPEG", {"quality": 95, "subsampling": 0}, 8),  # the content counts, not the name
    ],
)
def test_formats_come_out_as_they_went_in(tmp_path, name, fmt, options, tolerance):
    pixels = whole(write(tmp_path / name, encoded(picture(), fmt, **options)))
    assert pixels.shape == (24, 40, 3)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - np.asarray(picture())).max() <= tolerance


def test_sixteen_bit_grey_keeps_its_brightness(tmp_path):
    grey = np.linspace(0, 65535, 24 * 40).reshape(24, 40).astype(np.uint16)
    pixels = whole(write(tmp_path / "a.png", encoded(Image.fromarray(grey), "PNG")))
    assert np.abs(pixels - grey[..., None] / 257).max() <= 0.5


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "PA"])
def test_modes_become_rgb_within_two_levels(tmp_path, mode):
    source = picture().convert("RGB" if mode in ("RGBA",) else mode if mode in ("1", "L", "P") else "L").convert(mode)
    expected = np.asarray(source.convert("RGBA").convert("RGB"), int)
    pixels = whole(write(tmp_path / "a.png", encoded(source if mode != "PA" else source.convert("LA"), "PNG")))
    assert np.abs(pixels.astype(int) - expected).max() <= 2


def test_transparency_is_blended_over_white(tmp_path):
    layer = picture().convert("RGBA")
    layer.putalpha(128)
    pixels = whole(write(tmp_path / "a.png", encoded(layer, "PNG")))
    expected = np.asarray(picture(), float) * 128 / 255 + 255 * 127 / 255
    assert np.abs(pixels - expected).max() <= 1


def test_a_transparent_palette_colour_becomes_white(tmp_path):
    image = Image.new("P", (8, 8), 0)
    image.putpalette([255, 0, 0, 0, 0, 255])
    pixels = whole(write(tmp_path / "a.gif", encoded(image, "GIF", transparency=0)))
    assert (pixels == 255).all()


def test_cmyk_is_converted(tmp_path):
    flat = Image.new("RGB", (16, 16), (200, 60, 30))
    pixels = whole(write(tmp_path / "a.jpg", encoded(flat.convert("CMYK"), "JPEG", quality=98)))
    assert np.abs(pixels.astype(int) - (200, 60, 30)).max() <= 4


def test_an_icc_profile_is_applied_and_a_broken_one_ignored(tmp_path):
    flat = Image.new("RGB", (16, 16), (200, 60, 30))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    # The same profile with the primaries of red and blue exchanged in its tag table.
    swapped = srgb.replace(b"rXYZ", b"tmp!", 1).replace(b"bXYZ", b"rXYZ", 1).replace(b"tmp!", b"bXYZ", 1)
    same = whole(write(tmp_path / "srgb.png", encoded(flat, "PNG", icc_profile=srgb)))
    other = whole(write(tmp_path / "swapped.png", encoded(flat, "PNG", icc_profile=swapped)))
    broken = whole(write(tmp_path / "broken.png", encoded(flat, "PNG", icc_profile=b"not a profile")))
    assert np.abs(same.astype(int) - (200, 60, 30)).max() <= 1
    assert np.abs(other.astype(int) - (30, 60, 200)).max() <= 3
    assert (broken == (200, 60, 30)).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_applied_to_size_and_pixels(tmp_path, orientation, fmt):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "PNG": {}, "WEBP": {"lossless": True}}[fmt]
    path = write(tmp_path / "a", encoded(picture(), fmt, exif=exif, **options))
    assert read_size(path, max_pixels=LIMIT) == (SIZE if orientation < 5 else SIZE[::-1])
    a = np.asarray(picture(), int)
    expected = {
        1: a,
        2: a[:, ::-1],
        3: a[::-1, ::-1],
        4: a[::-1],
        5: a.swapaxes(0, 1),
        6: np.rot90(a, -1),
        7: a[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(a),
    }
    assert np.abs(whole(path).astype(int) - expected[orientation]).max() <= 8


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_ignored(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert (whole(write(tmp_path / "a.png", encoded(picture(), "PNG", exif=exif))) == np.asarray(picture())).all()


@pytest.mark.parametrize("fmt", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_used(tmp_path, fmt):
    frames = [Image.new("RGB", (16, 16), c) for c in ((255, 0, 0), (0, 0, 255))]
    options = {"lossless": True} if fmt == "WEBP" else {}
    path = write(tmp_path / "a", encoded(frames[0], fmt, save_all=True, append_images=frames[1:], duration=100, **options))
    assert (whole(path) == (255, 0, 0)).all()


def test_a_picture_is_cropped_at_its_centre_and_resized(tmp_path):
    pixels = np.zeros((32, 96, 3), np.uint8)
    pixels[:, 32:64] = 200
    path = write(tmp_path / "a.png", encoded(Image.fromarray(pixels), "PNG"))
    out = decode(path, bucket=(16, 16), max_pixels=LIMIT)
    assert out.shape == (16, 16, 3)
    assert np.abs(out[:, 2:-2].astype(int) - 200).max() <= 1


def test_a_large_photograph_decoded_at_reduced_size_looks_the_same(tmp_path):
    path = write(tmp_path / "a.jpg", encoded(picture((1600, 1200)), "JPEG", quality=95))
    expected = picture((1600, 1200)).resize((64, 48), Image.Resampling.LANCZOS)
    assert np.abs(decode(path, bucket=(64, 48), max_pixels=LIMIT).astype(int) - np.asarray(expected)).max() <= 4


# ---- refused ----


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of_size(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(b"\0" * 100)) + png_chunk(b"IEND", b"")


def test_a_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"gone\.png: no such file"):
        read_size(tmp_path / "gone.png", max_pixels=LIMIT)


def test_an_empty_file(tmp_path):
    with pytest.raises(DataError, match=r"a\.png: the file is empty"):
        read_size(write(tmp_path / "a.png", b""), max_pixels=LIMIT)


@pytest.mark.parametrize(
    "data",
    [
        b"hello",
        b"<html></html>",
        b"\0" * 5000,
        b"%PDF-1.7",
        b"PK\x03\x04zip",
        b"\x89PNG",
        b"GIF89a",
        b"\xff\xd8",
        b"RIFF\0\0\0\0WEBP",
        b"BM",
        encoded(picture(), "TIFF"),  # a picture, but not in an accepted format
        encoded(picture(), "PPM"),
        encoded(picture(), "ICO"),
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",  # would start Ghostscript
    ],
)
def test_what_is_no_picture_is_named(tmp_path, data):
    path = write(tmp_path / "a.png", data)
    with pytest.raises(
        DataError, match=r"a\.png: (not a picture in a supported format \(PNG, JPEG, WEBP, BMP, GIF\)|the header cannot be read)"
    ):
        read_size(path, max_pixels=LIMIT)


def test_a_decompression_bomb_is_refused_before_decoding(tmp_path):
    path = write(tmp_path / "bomb.png", png_of_size(10_000, 9_000))
    with (
        warnings.catch_warnings(),
        pytest.raises(DataError, match=r"bomb\.png: 10000 x 9000 px is more than the limit of 64 megapixels; refused before decoding"),
    ):
        warnings.simplefilter("ignore")  # Pillow's own, from 89 megapixels on
        read_size(path, max_pixels=LIMIT)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(DataError, match=r"bomb\.png: .*refused before decoding"):
            decode(write(tmp_path / "bomb.png", png_of_size(60_000, 60_000)), bucket=(16, 16), max_pixels=LIMIT)


def test_a_bomb_in_a_text_chunk_is_refused(tmp_path):
    bomb = png_chunk(b"zTXt", b"k\0\0" + zlib.compress(b"\0" * 80_000_000))
    clean = encoded(picture(), "PNG")
    path = write(tmp_path / "a.png", clean[:33] + bomb + clean[33:])
    with pytest.raises(DataError, match=r"a\.png: "):
        whole(path)


@pytest.mark.parametrize("fmt", ["PNG", "JPEG", "WEBP", "BMP", "GIF"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_truncated_file_is_an_error_that_names_it(tmp_path, fmt, share):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), fmt)
    path = write(tmp_path / "cut.png", data[: int(len(data) * share)])
    with pytest.raises(
        DataError, match=r"cut\.png: (the picture is damaged or cut off and was not used \(|the header cannot be read|not a picture)"
    ):
        decode(path, bucket=(16, 16), max_pixels=LIMIT)


def attempt(path) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pixels = decode(path, bucket=(16, 16), max_pixels=1_000_000)
    except DataError as error:
        return "refused" if path.name in str(error) else "refused without its name"
    return "pixels" if pixels.shape == (16, 16, 3) else "wrong shape"


def test_flipped_bytes_give_pixels_or_an_error_but_never_a_crash(tmp_path):
    """Mutants of every format: each is decoded to the right shape, or refused with the file's name."""
    rng = np.random.default_rng(0)
    outcomes = Counter()
    for fmt in ("PNG", "JPEG", "WEBP", "BMP", "GIF"):
        clean = encoded(picture((24, 24)), fmt)
        for _ in range(80):
            data = bytearray(clean)
            for _ in range(rng.integers(1, 6)):
                data[rng.integers(len(data))] = rng.integers(256)
            path = write(tmp_path / "mutant.png", bytes(data))
            outcomes[attempt(path)] += 1
    assert outcomes["pixels"] + outcomes["refused"] == 400, outcomes
    assert outcomes["refused"] > 100


def test_a_wrong_checksum_is_an_error(tmp_path):
    data = bytearray(encoded(picture(), "PNG"))
    at = data.index(b"IDAT") + 4
    data[at + 20] ^= 0xFF
    with pytest.raises(DataError, match=r"a\.png: the picture is damaged or cut off"):
        whole(write(tmp_path / "a.png", bytes(data)))


def test_pillows_switch_for_truncated_images_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(DataError, match="LOAD_TRUNCATED_IMAGES is set in this process"):
        read_size(write(tmp_path / "a.png", encoded(picture(), "PNG")), max_pixels=LIMIT)


def test_comments_in_a_picture_change_nothing(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "x" * 100)
    assert (whole(write(tmp_path / "a.png", encoded(picture(), "PNG", pnginfo=info))) == np.asarray(picture())).all()
