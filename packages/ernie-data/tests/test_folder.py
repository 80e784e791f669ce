"""The data source `folder`: scanning, captions, errors by their text, batches and the cache."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from ernie_core.api import ConfigError, DataError, DataSourceContext, RecordRef, Stage
from ernie_core.testing.data import DataSourceContract
from ernie_data.config import FolderConfig
from ernie_data.sources.folder import FolderSource, PixelCache, build
from ernie_data.sources.scan import pictures_of, scan_folder

CONTEXT = DataSourceContext(seed=0, size_multiple_px=16)
STAGE = Stage(size_px=64, steps=10, batch_size=8)


def image(path, size=(64, 64), colour=(200, 30, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def captioned(folder, names, size=(64, 64)):
    for i, name in enumerate(names):
        image(folder / name, size=size, colour=(10 * i, 50, 200)).with_suffix(".txt").write_text(f"picture {name}")
    return folder


def metadata(folder, rows):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metadata.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return folder


def source(folder, **options) -> FolderSource:
    return build(FolderConfig(path=str(folder), **options), CONTEXT)


class TestFolderIsADataSource(DataSourceContract):
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path):
        self.path = tmp_path
        for i in range(24):
            size = (64 + 8 * (i % 5), 64 + 24 * (i % 3))
            image(tmp_path / f"{i:02d}.png", size=size, colour=(10 * i, 80, 120)).with_suffix(".txt").write_text(f"number {i}")

    entry = "folder"

    def make(self, *, seed: int = 0):
        return build(FolderConfig(path=str(self.path)), DataSourceContext(seed=seed, size_multiple_px=16))


# ---- captions ----


def test_captions_come_from_text_files_in_all_subfolders(tmp_path):
    captioned(tmp_path, ["a.png", "deep/er/b.JPG", "c.webp"])
    pictures = pictures_of(FolderConfig(path=str(tmp_path)))
    assert [p.key for p in pictures] == ["a.png", "c.webp", "deep/er/b.JPG"]
    assert pictures[2].captions == {"text": "picture deep/er/b.JPG"}


def test_captions_come_from_metadata_in_each_folder(tmp_path):
    image(tmp_path / "a.png")
    image(tmp_path / "sub" / "b.png")
    metadata(tmp_path, [{"file_name": "a.png", "text": " one \r\n two ", "aesthetic": 5}])
    metadata(tmp_path / "sub", [{"file_name": "b.png", "text": "b"}])
    assert [p.captions for p in pictures_of(FolderConfig(path=str(tmp_path)))] == [{"text": "one \n two"}, {"text": "b"}]


def test_styles_come_from_columns_or_an_object(tmp_path):
    image(tmp_path / "a.png")
    image(tmp_path / "b.png")
    rows = [
        {"file_name": "a.png", "text": "long", "text_keywords": "k", "text_request": "r"},
        {"file_name": "b.png", "text": "k", "captions": {"keywords": "k", "request": "r"}},
    ]
    a, b = pictures_of(FolderConfig(path=str(metadata(tmp_path, rows))))
    assert a.captions == {"text": "long", "keywords": "k", "request": "r"}
    assert b.captions == {"keywords": "k", "request": "r"}, "`text` repeats a style and is not counted twice"
    only = source(tmp_path, styles=("keywords",))
    assert all(r.captions == {"keywords": "k"} for r in only.fetch(only.batch(0, global_batch=4, stage=STAGE)))


def test_a_byte_order_mark_is_no_part_of_the_caption(tmp_path):
    image(tmp_path / "a.png").with_suffix(".txt").write_bytes(b"\xef\xbb\xbfcaf\xc3\xa9")
    assert pictures_of(FolderConfig(path=str(tmp_path)))[0].captions == {"text": "café"}


def test_hidden_files_are_passed_over(tmp_path):
    captioned(tmp_path, ["a.png"])
    (tmp_path / "._a.png").write_bytes(b"resource fork")
    image(tmp_path / ".cache" / "thumb.png")
    assert [p.key for p in pictures_of(FolderConfig(path=str(tmp_path)))] == ["a.png"]


# ---- promised errors ----


def test_a_missing_folder_and_a_file_in_its_place(tmp_path):
    with pytest.raises(DataError, match=r"nowhere: no such folder \(data\.path\)"):
        source(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"a\.png: not a folder \(data\.path\)"):
        source(image(tmp_path / "a.png"))


def test_a_folder_without_pictures(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(DataError, match=r"no images found; expected files that end in \.png, \.jpg, \.jpeg, \.webp, \.bmp, \.gif"):
        source(tmp_path)


def test_images_without_captions_are_counted_and_ten_are_listed(tmp_path):
    captioned(tmp_path, ["good.png"])
    for i in range(13):
        image(tmp_path / f"bare{i:02d}.png")
    with pytest.raises(DataError) as caught:
        source(tmp_path)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{tmp_path}: images without a caption: 13. Write a.txt beside a.png, or a line in metadata.jsonl:"
    assert lines[1:11] == [f"  bare{i:02d}.png" for i in range(10)]
    assert lines[11] == "  ... and 3 more"
    assert caught.value.exit_code == 2


def test_every_kind_of_problem_is_reported_at_once(tmp_path):
    image(tmp_path / "bare.png")
    image(tmp_path / "empty.png").with_suffix(".txt").write_text(" \n ")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "broken.txt").write_text("broken")
    image(tmp_path / "latin.png").with_suffix(".txt").write_bytes(b"caf\xe9")
    text = scan_folder(FolderConfig(path=str(tmp_path))).report(tmp_path)
    assert "images without a caption: 1. " in text
    assert "  bare.png" in text
    assert "images with an empty caption: 1. Write one, or set data.allow_empty = true:\n  empty.png" in text
    assert "images that cannot be read: 1\n" in text
    assert "broken.png: " in text
    assert "captions that cannot be used: 1\n" in text
    assert "latin.txt: not UTF-8 text (byte 0xe9 at position 3); save it as UTF-8" in text


def test_empty_captions_can_be_allowed(tmp_path):
    image(tmp_path / "a.png").with_suffix(".txt").write_text("")
    assert pictures_of(FolderConfig(path=str(tmp_path), allow_empty=True))[0].captions == {"text": ""}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"bell \x07", r"a\.txt: a control character \(U\+0007\) at position 5 of the caption; remove it"),
        (b"nul\0byte", r"U\+0000"),
        (b"next\xc2\x85line", r"U\+0085"),
        ("text".encode("utf-16"), r"a\.txt: not UTF-8 text \(byte 0xff at position 0\)"),
        (b"x" * 20_000, r"a\.txt: 20000 bytes is too long for a caption; the limit is 16384"),
    ],
)
def test_unusable_caption_files(tmp_path, data, message):
    image(tmp_path / "a.png").with_suffix(".txt").write_bytes(data)
    with pytest.raises(DataError, match=message):
        source(tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json", r"metadata\.jsonl:2: not valid JSON \(.*\); expected one object per line"),
        ("[1, 2]", r'metadata\.jsonl:2: expected an object such as \{"file_name": "a\.png", "text": "\.\.\."\}, found list'),
        ("[" * 100_000, r"metadata\.jsonl:2: not valid JSON"),
        ('{"text": "x"}', r"metadata\.jsonl:2: `file_name` is missing or not a string; keys found: text"),
        ('{"file_name": 3, "text": "x"}', r"metadata\.jsonl:2: `file_name` is missing or not a string"),
        ('{"file_name": "a.png", "text": "x"}', r"metadata\.jsonl:2: a\.png is described twice, first in line 1"),
        ('{"file_name": "b.png", "text": 7}', r"metadata\.jsonl:2: `text` must be text, found int"),
        ('{"file_name": "b.png", "text": null}', r"metadata\.jsonl:2: `text` must be text, found NoneType"),
        ('{"file_name": "b.png", "text_short": []}', r"metadata\.jsonl:2: the caption of style `short` must be text, found list"),
        ('{"file_name": "b.png", "captions": ["x"]}', r"metadata\.jsonl:2: `captions` must be an object from style to text, found list"),
        (
            '{"file_name": "b.png", "captions": {"s": "x"}, "text_s": "y"}',
            r"metadata\.jsonl:2: style `s` is given twice, in `captions` and in `text_s`",
        ),
        ('{"file_name": "b.png", "text": "a\\u0000b"}', r"metadata\.jsonl:2: a control character \(U\+0000\) at position 1"),
        ('{"file_name": "b.png", "text": "\\ud800"}', r"metadata\.jsonl:2: half a surrogate pair \(U\+D800\) at position 0"),
        ('{"file_name": "b.png", "text": "' + "x" * 20_000 + '"}', r"metadata\.jsonl:2: 20000 bytes is too long for a caption"),
    ],
)
def test_unusable_metadata_lines(tmp_path, line, message):
    image(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "a"}\n' + line + "\n")
    with pytest.raises(DataError, match=message):
        source(tmp_path)


def test_metadata_that_is_not_utf8(tmp_path):
    image(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_bytes(b'{"file_name": "a.png", "text": "caf\xe9"}\n')
    with pytest.raises(DataError, match=r"metadata\.jsonl:1: not UTF-8 text \(byte 0xe9"):
        source(tmp_path)


def test_images_that_metadata_names_but_that_do_not_exist(tmp_path):
    image(tmp_path / "a.png")
    rows = [{"file_name": "a.png", "text": "a"}, *({"file_name": f"gone{i:02d}.png", "text": "g"} for i in range(12))]
    with pytest.raises(DataError) as caught:
        source(metadata(tmp_path, rows))
    assert "images that metadata.jsonl names but that do not exist: 12\n  gone00.png (metadata.jsonl)" in str(caught.value)
    assert "... and 2 more" in str(caught.value)


@pytest.mark.parametrize("name", ["../secret.png", "/etc/secret.png", "sub/../../secret.png", "..\\secret.png"])
def test_paths_that_leave_the_folder_are_refused(tmp_path, name):
    folder = captioned(tmp_path / "set", ["a.png"])
    image(tmp_path / "secret.png")
    with pytest.raises(DataError, match="paths that lead out of the folder and were refused: 1"):
        source(metadata(folder, [{"file_name": name, "text": "x"}]))


def test_links_out_of_the_folder_need_a_switch(tmp_path):
    folder = captioned(tmp_path / "set", ["a.png"])
    captioned(tmp_path / "elsewhere", ["b.png"])
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(
        DataError, match=r"symbolic links that lead out of the folder: 1\. Set data\.follow_links = true to allow that:\n  linked"
    ):
        source(folder)
    assert len(source(folder, follow_links=True)) == 2


def test_links_in_a_circle_end(tmp_path):
    folder = captioned(tmp_path / "set", ["a.png", "sub/b.png"])
    (folder / "sub" / "back").symlink_to(folder)
    assert len(source(folder)) == 2


def test_two_captions_for_one_image(tmp_path):
    captioned(tmp_path, ["a.png"])
    with pytest.raises(DataError, match=r"images with both a \.txt file and a line in metadata\.jsonl: 1\. Keep one of them:\n  a\.png"):
        source(metadata(tmp_path, [{"file_name": "a.png", "text": "x"}]))


def test_metadata_for_a_file_that_is_no_picture(tmp_path):
    captioned(tmp_path, ["a.png"])
    (tmp_path / "clip.mp4").write_bytes(b"x")
    with pytest.raises(DataError, match=r"files that metadata\.jsonl names and that are no pictures by their names \(expected .*\): 1"):
        source(metadata(tmp_path, [{"file_name": "clip.mp4", "text": "x"}]))


def test_a_style_that_an_image_lacks(tmp_path):
    captioned(tmp_path, ["a.png"])
    with pytest.raises(DataError, match=r"images without a caption of the styles that data\.styles asks for: 1\n  a\.png has text"):
        source(tmp_path, styles=("keywords",))


def test_a_picture_that_is_damaged_beyond_its_header_is_named_when_it_is_fetched(tmp_path):
    captioned(tmp_path, ["a.png"])
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "b.png")
    (tmp_path / "b.txt").write_text("b")
    whole = (tmp_path / "b.png").read_bytes()
    (tmp_path / "b.png").write_bytes(whole[: len(whole) // 2])
    folder = source(tmp_path)
    with pytest.raises(DataError, match=r"b\.png: the picture is damaged or cut off and was not used"):
        folder.fetch(folder.batch(0, global_batch=2, stage=STAGE))


def test_a_picture_deleted_after_the_scan_is_named(tmp_path):
    folder = source(captioned(tmp_path, ["a.png"]))
    (tmp_path / "a.png").unlink()
    with pytest.raises(DataError, match=r"a\.png: no such file"):
        folder.fetch(folder.batch(0, global_batch=1, stage=STAGE))


def test_a_stage_size_without_buckets_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match=r"stage size_px = 24: .*try size_px = 16 or 32"):
        source(captioned(tmp_path, ["a.png"])).batch(0, global_batch=1, stage=Stage(size_px=24, steps=1, batch_size=1))


def test_a_ref_of_another_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"record 0 is a\.png, asked for was z\.png: the folder has changed"):
        source(captioned(tmp_path, ["a.png"])).fetch([RecordRef("z.png", 0, (64, 64))])


# ---- batches ----


def test_a_batch_is_one_bucket_and_pictures_go_where_they_fit(tmp_path):
    captioned(tmp_path, ["wide1.png", "wide2.png"], size=(200, 100))
    captioned(tmp_path, ["tall.png"], size=(100, 200))
    folder = source(tmp_path)
    seen = set()
    for step in range(30):
        refs = folder.batch(step, global_batch=4, stage=Stage(size_px=128, steps=10, batch_size=4))
        (size,) = {r.size_px for r in refs}
        seen.add(size)
        for record in folder.fetch(refs):
            assert record.pixels.shape == (size[1], size[0], 3)
            assert (size[0] > size[1]) == record.key.startswith("wide")
    assert len(seen) == 2


def test_eight_pictures_fill_a_batch_of_thirty_two(tmp_path):
    folder = source(captioned(tmp_path, [f"{i}.png" for i in range(8)]))
    keys = [r.key for r in folder.batch(5, global_batch=32, stage=STAGE)]
    assert sorted(keys) == sorted(f"{i}.png" for i in range(8) for _ in range(4))


def test_flip_adds_a_mirror_image_of_every_picture(tmp_path):
    ramp = np.zeros((64, 64, 3), np.uint8)
    ramp[:, :32] = 255
    Image.fromarray(ramp).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a")
    folder = source(tmp_path, flip=True)
    assert len(folder) == 2
    plain, mirrored = (folder.fetch([RecordRef("a.png", row, (64, 64))])[0].pixels for row in (0, 1))
    assert np.array_equal(plain, ramp)
    assert np.array_equal(mirrored, ramp[:, ::-1])
    assert sorted(r.row for r in folder.batch(0, global_batch=2, stage=STAGE)) == [0, 1]


def test_the_cache_changes_nothing_and_saves_reading(tmp_path):
    captioned(tmp_path, [f"{i}.png" for i in range(6)])
    plain, cached = source(tmp_path, cache_mib=0), source(tmp_path, cache_mib=8)
    for step in range(4):
        refs = plain.batch(step, global_batch=4, stage=STAGE)
        for a, b in zip(plain.fetch(refs), cached.fetch(refs)):
            assert np.array_equal(a.pixels, b.pixels)
    for i in range(6):
        (tmp_path / f"{i}.png").unlink()
    refs = cached.batch(9, global_batch=6, stage=STAGE)
    assert len(cached.fetch(refs)) == 6
    with pytest.raises(DataError, match="no such file"):
        plain.fetch(refs)


def test_the_cache_keeps_its_bound_and_makes_room_for_another_stage():
    one = np.zeros((10, 10, 3), np.uint8)
    cache = PixelCache(limit_bytes=3 * one.nbytes)
    for index in range(5):
        cache.put(index, (10, 10), one.copy())
    assert cache.used_bytes == 3 * one.nbytes
    assert [cache.get(i, (10, 10)) is not None for i in range(5)] == [True, True, True, False, False]
    cache.put(0, (5, 20), one.copy())  # another bucket of the same stage has to wait
    assert cache.get(0, (5, 20)) is None
    cache.put(0, (6, 6), np.zeros((6, 6, 3), np.uint8))
    assert cache.get(0, (6, 6)) is not None
    assert cache.get(0, (10, 10)) is None
    assert cache.used_bytes == 108
    with pytest.raises(ValueError, match="read-only"):
        cache.get(0, (6, 6))[:] = 1


def test_threads_see_the_same_pictures(tmp_path):
    folder = source(captioned(tmp_path, [f"{i}.png" for i in range(12)]), cache_mib=1)
    refs = [folder.batch(step, global_batch=8, stage=STAGE) for step in range(16)]
    alone = [[r.pixels.tobytes() for r in source(tmp_path, cache_mib=0).fetch(r)] for r in refs]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda r: [x.pixels.tobytes() for x in folder.fetch(r)], refs))
    assert alone == together
