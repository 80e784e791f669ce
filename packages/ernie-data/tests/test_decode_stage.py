"""The decode stage: what comes out of good pictures, and a reason for every bad one (I1, I2 and I3 at CI size)."""

import hashlib
import io
import json
import struct
import subprocess
import sys
import time
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ernie_core.api import DataStageContext, PluginHost
from ernie_data.engine.stage import Item, Kept, Refuse
from ernie_data.reasons import ReasonCode
from ernie_data.stages.decode import build
from ernie_data.stages.entries import DecodeConfig

CONTEXT = DataStageContext(PluginHost.discover().build)
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")


def picture(size=(40, 24)) -> Image.Image:
    y, x = np.mgrid[: size[1], : size[0]]
    return Image.fromarray(np.stack([x * 255 // size[0], y * 255 // size[1], 120 + 0 * x], axis=-1).astype(np.uint8))


def encoded(image: Image.Image, fmt: str, **options) -> bytes:
    data = io.BytesIO()
    image.save(data, format=fmt, **options)
    return data.getvalue()


def outcome(data: bytes, **options) -> Kept | Refuse:
    stage = build(DecodeConfig(**options), CONTEXT)
    return next(iter(stage.process([Item("k", {}, lambda: data)])))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(width: int, height: int, *, depth: int = 8, colour: int = 2, data: bytes = bytes(100)) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def bmp_of(width: int, height: int, bits: int = 24) -> bytes:
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, 0, 0, 1, 1, 0, 0)


def gif_of(width: int, height: int) -> bytes:
    return (
        b"GIF89a"
        + struct.pack("<HHBBB", width, height, 0, 0, 0)
        + b","
        + struct.pack("<HHHHB", 0, 0, width, height, 0)
        + b"\x02\x02D\x01\0;"
    )


CLEAN = {fmt: encoded(picture(), fmt) for fmt in FORMATS}
BOMBS = {
    **{
        f"PNG {w}x{h}": png_of(w, h)
        for w, h in ((10_000, 9_000), (60_000, 60_000), (2**31 - 1, 1), (2**31 - 1, 2**31 - 1), (65_000, 1_000))
    },
    **{f"grey PNG {w}x{w}": png_of(w, w, depth=1, colour=0) for w in (9_000, 50_000, 2**20)},
    **{f"BMP {w}x{h}": bmp_of(w, h) for w, h in ((10_000, 9_000), (60_000, 60_000), (2**31 - 1, 2**31 - 1), (100_000, -100_000))},
    **{f"GIF {w}x{w}": gif_of(w, w) for w in (9_000, 30_000, 65_535)},
}
BROKEN = {
    "empty": b"",
    "text": b"hello",
    "html": b"<!doctype html><title>404</title>",
    "json": b'{"error": "not found"}',
    "pdf": b"%PDF-1.7\n",
    "zip": b"PK\x03\x04" + bytes(100),
    "zeros": bytes(5000),
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    "tiff": encoded(picture(), "TIFF"),
    "ppm": encoded(picture(), "PPM"),
    "ico": encoded(picture(), "ICO"),
    "heic box": b"\0\0\0\x18ftypheic" + bytes(100),
    "mp4 box": b"\0\0\0\x18ftypmp42" + bytes(100),
    "signature of PNG": b"\x89PNG\r\n\x1a\n",
    "signature of JPEG": b"\xff\xd8\xff",
    "signature of GIF": b"GIF89a",
    "signature of WebP": b"RIFF\0\0\0\0WEBP",
    "signature of BMP": b"BM",
    "PNG of 0 x 0": png_of(0, 0),
    "PNG of 0 x 9": png_of(0, 9),
    "BMP of 0 x 9": bmp_of(0, 9),
    "PNG without data": b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)) + chunk(b"IEND", b""),
    "PNG with a colour type of 7": png_of(8, 8, colour=7),
    "PNG with a depth of 3": png_of(8, 8, depth=3),
    "PNG with random data": png_of(8, 8, data=b"")[:41] + b"\x99" * 20,
    "PNG with a text bomb": CLEAN["PNG"][:33] + chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(80_000_000))) + CLEAN["PNG"][33:],
    "PNG with a profile bomb": CLEAN["PNG"][:33] + chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(80_000_000))) + CLEAN["PNG"][33:],
    "JPEG without tables": b"\xff\xd8" + CLEAN["JPEG"][CLEAN["JPEG"].index(b"\xff\xc0") :],
    "JPEG of 65535 x 65535": CLEAN["JPEG"].replace(struct.pack(">HH", 24, 40), b"\xff\xff\xff\xff", 1),
    **{f"{fmt} cut at {share}": CLEAN[fmt][: int(len(CLEAN[fmt]) * share)] for fmt in FORMATS for share in (0.2, 0.4, 0.6, 0.8)},
}


@pytest.mark.parametrize("fmt", FORMATS)
def test_a_good_picture_is_kept_with_its_columns(fmt):
    kept = outcome(CLEAN[fmt])
    assert kept.picture == CLEAN[fmt]
    assert (kept.columns["width"], kept.columns["height"], kept.columns["format"], kept.columns["frames"]) == (40, 24, fmt, 1)
    json.dumps(dict(kept.columns))


def test_equal_pixels_in_other_files_have_equal_pixel_sums():
    sums = {fmt: outcome(CLEAN[fmt]).columns["pixel_sha256"] for fmt in FORMATS}
    assert sums["PNG"] == sums["BMP"] == outcome(encoded(picture(), "WEBP", lossless=True)).columns["pixel_sha256"]
    assert sums["JPEG"] != sums["PNG"]
    expected = hashlib.sha256(struct.pack("<II", 40, 24) + np.asarray(picture()).tobytes()).hexdigest()
    assert sums["PNG"] == expected


@pytest.mark.parametrize(("fmt", "tolerance"), [("png", 0), ("webp", 0), ("jpeg", 3)])
def test_normalised_pictures_are_upright_srgb_of_the_chosen_format(fmt, tolerance):
    exif = Image.Exif()
    exif[0x0112] = 6
    kept = outcome(encoded(picture(), "PNG", exif=exif), format=fmt)
    stored = Image.open(io.BytesIO(kept.picture))
    assert (stored.format, stored.mode, stored.size) == (fmt.upper(), "RGB", (24, 40))
    assert stored.getexif().get(0x0112) is None
    assert (kept.columns["width"], kept.columns["source_width"]) == (24, 40)
    assert np.abs(np.asarray(stored, int) - np.rot90(np.asarray(picture(), int), -1)).max() <= tolerance


@pytest.mark.parametrize(("size", "expected"), [((400, 100), (200, 50)), ((99, 100), (99, 100)), ((1600, 1600), (100, 100))])
@pytest.mark.parametrize("fmt", ["PNG", "JPEG"])
def test_large_pictures_are_reduced_to_the_area_asked_for(size, expected, fmt):
    kept = outcome(encoded(picture(size), fmt, **({"quality": 95} if fmt == "JPEG" else {})), format="png", shrink_to_px=100)
    stored = Image.open(io.BytesIO(kept.picture))
    assert stored.size == expected
    assert np.abs(np.asarray(stored, int) - np.asarray(picture(size).resize(expected, Image.Resampling.LANCZOS), int)).max() <= 4


@pytest.mark.parametrize(
    ("size", "options", "reason"),
    [
        ((40, 24), {"min_side_px": 25}, ReasonCode.TOO_SMALL),
        ((400, 20), {"max_aspect": 19.0}, ReasonCode.TOO_LONG),
        ((1001, 1000), {"max_megapixels": 1}, ReasonCode.TOO_MANY_PIXELS),
    ],
)
def test_limits_name_both_sides(size, options, reason):
    refused = outcome(encoded(picture(size), "PNG"), **options)
    assert refused.reason is reason
    assert f"{size[0]} x {size[1]} px" in refused.detail
    assert isinstance(outcome(encoded(picture(size), "PNG")), Kept)


def test_i1_broken_pictures_each_have_a_reason():
    for what, data in BROKEN.items():
        started = time.monotonic()
        refused = outcome(data)
        assert time.monotonic() - started < 5, what
        assert isinstance(refused, Refuse), what
        assert len(refused.detail) <= 300, what


def test_i1_mutants_have_a_reason_or_a_pixel_sum():
    """2,000 mutants of 5 formats."""
    rng = np.random.default_rng(1)
    reasons: Counter[str] = Counter()
    for fmt in FORMATS:
        for _ in range(400):
            data = bytearray(CLEAN[fmt])
            for _ in range(rng.integers(1, 6)):
                data[rng.integers(len(data))] = rng.integers(256)
            given = outcome(bytes(data), max_megapixels=1)
            reasons[given.reason if isinstance(given, Refuse) else "pixels"] += 1
            assert isinstance(given, Refuse) or len(given.columns["pixel_sha256"]) == 64
    assert reasons.total() == 2000
    assert reasons["pixels"] > 200, reasons
    assert len(reasons) > 3, reasons


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_i2_bombs_are_refused_from_the_header():
    for what, data in BOMBS.items():
        refused = outcome(data)
        assert isinstance(refused, Refuse), what
        assert refused.reason in (ReasonCode.TOO_MANY_PIXELS, ReasonCode.TOO_LONG, ReasonCode.HEADER_DAMAGED, ReasonCode.NOT_A_PICTURE), (
            what
        )


IN_FIFTY_MEGABYTES = """
import resource, sys, time, warnings
from pathlib import Path
from ernie_core.api import DataStageContext, PluginHost
from ernie_data.engine.stage import Item, Refuse
from ernie_data.stages.decode import build
from ernie_data.stages.entries import DecodeConfig

warnings.simplefilter("ignore")
stage = build(DecodeConfig(), DataStageContext(PluginHost.discover().build))
files = sorted(Path(sys.argv[1]).iterdir())
try:
    stage.one(Item("warm", {}, (Path(sys.argv[1]) / "0-whole").read_bytes))
finally:
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 50_000_000, size + 50_000_000))
slowest = 0.0
for path in files[1:]:
    data = path.read_bytes()
    started = time.perf_counter()
    try:
        stage.one(Item(path.name, {}, lambda: data))
        raise SystemExit(f"{path.name}: accepted")
    except Refuse:
        slowest = max(slowest, time.perf_counter() - started)
print(f"{len(files) - 1} refused, the slowest in {1000 * slowest:.1f} ms")
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="address space is read from /proc")
def test_i2_bombs_are_refused_within_50_megabytes(tmp_path):
    (tmp_path / "0-whole").write_bytes(CLEAN["PNG"])
    for number, data in enumerate(BOMBS.values(), start=1):
        (tmp_path / f"bomb-{number:02d}").write_bytes(data)
    done = subprocess.run([sys.executable, "-c", IN_FIFTY_MEGABYTES, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert f"{len(BOMBS)} refused" in done.stdout
    print(done.stdout)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_i3_all_orientations_give_one_pixel_sum(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}.get(orientation)  # the transposition that undoes it
    turned = picture() if back is None else picture().transpose(Image.Transpose(back))
    upright = outcome(encoded(turned, "PNG", exif=exif)).columns
    assert upright["pixel_sha256"] == outcome(CLEAN["PNG"]).columns["pixel_sha256"]
    assert (upright["width"], upright["height"]) == (40, 24)


def test_animations_tell_their_frames():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    assert outcome(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])).columns["frames"] == 3


def test_original_cannot_be_shrunk():
    with pytest.raises(ValueError, match='`shrink_to_px` changes pictures: choose format = "jpeg", "png" or "webp", found "original"'):
        DecodeConfig(shrink_to_px=100)
