"""Whole builds: every record accounted for, crashes contained, changes redone and nothing else, damage found."""

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from ernie_core import io
from ernie_core.api import App, ConfigError, DataError, PluginHost, RunFolderError, Selection
from ernie_data.cli import main as data
from ernie_data.engine.build import BuildFailed, build_dataset, links_of
from ernie_data.engine.chain import Link
from ernie_data.engine.local import WorkersLost
from ernie_data.engine.store import read_manifest
from ernie_data.recipe import FolderInput, Recipe, RunOptions, TarInput, load_recipe
from ernie_data.shards import ShardReader
from ernie_data.sources.listing import list_sources
from ernie_data.stages.entries import DecodeConfig, SizeConfig
from ernie_data.tables import read_rows

ODD_STAGES = '''
import ctypes, os, signal, time
from pathlib import Path
from typing import ClassVar
from ernie_core.api import Config
from ernie_data.engine.stage import Kept, RecordStage

class OddConfig(Config):
    marks: str = ""
    what: str = ""
    code: str = "1"

class Odd(RecordStage):
    """Does `what` at keys that hold "odd"; everything else gets a column."""
    columns = {"length": "int"}
    def __init__(self, config, context):
        self.config = config
        self.code = config.code
    def one(self, item):
        if "odd" in item.key:
            what = self.config.what
            if what == "segfault": ctypes.string_at(0)
            if what == "abort": os.abort()
            if what == "exit": os._exit(3)
            if what == "hang": time.sleep(3600)
            if what == "memory": bytearray(8 << 30)
            if what == "killed": os.kill(os.getpid(), signal.SIGKILL)
            if what == "raise": raise ValueError("no idea")
            if what == "killed once":
                mark = Path(self.config.marks) / item.key.replace("/", "_")
                if not mark.exists():
                    mark.touch()
                    os.kill(os.getpid(), signal.SIGKILL)
        return Kept({"length": len(item.load())})

class Short(Odd):
    def process(self, items):
        yield from list(super().process(items))[1:]

class Greedy(Odd):
    def one(self, item):
        return Kept({"key": "mine"})
'''
ODD = "rec-13-odd"
STAGES = (Selection("decode", DecodeConfig()), Selection("size", SizeConfig()))
HOST = PluginHost.discover()


@pytest.fixture
def odd(tmp_path, monkeypatch):
    """A link to a stage that misbehaves, importable by workers too."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "odd_stages.py").write_text(ODD_STAGES)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")])))
    yield lambda build="Odd", **options: Link("odd", f"odd_stages:{build}", "odd_stages:OddConfig", options)
    sys.modules.pop("odd_stages", None)


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(30):
        name = ODD if i == 13 else f"rec-{i:02d}"
        Image.fromarray(rng.integers(0, 256, (10, 12 + i % 3, 3), dtype=np.uint8)).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"number {i}")
    return folder


def recipe(raw: Path, *, stages=STAGES, unit_rows=8, **run) -> Recipe:
    sources = (Selection("folder", FolderInput(path=str(raw))),)
    return Recipe(sources=sources, stages=stages, unit_rows=unit_rows, run=RunOptions(**{"workers": 2, **run}))


def units(out: Path) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for line in read_manifest(out / "manifest.jsonl"):
        found.setdefault(line.stage, set()).add(line.receipt.unit)
    return found


def rows_of(out: Path, stage: str) -> dict[str, dict]:
    return {row["key"]: row for folder in (out / stage).iterdir() for row in read_rows(folder / "rows.parquet")}


def test_every_record_has_a_row_in_every_stage_and_counts_sum(raw, tmp_path):
    (raw / "bad.png").write_bytes(b"hello")
    (raw / "empty.jpg").touch()
    (raw / "other.pdf").touch()
    (raw / "rec-00.txt").write_bytes(b"\xff\xfe")
    (raw / "metadata.jsonl").write_text('{"file_name": "gone.png", "text": "x"}\n')
    (raw / "out.png").symlink_to("/etc/hostname")
    about = build_dataset(recipe(raw), tmp_path / "out")
    assert (about["records"], about["accepted"], about["rejected"]) == (34, 30, 4)
    assert about["ignored_files"] == {".pdf": 1}
    assert about["captions_not_used"] == 1
    for stage in about["stages"]:
        assert stage["entered"] == stage["accepted"] + sum(stage["rejected"].values())
        rows = rows_of(tmp_path / "out", stage["stage"])
        assert len(rows) == 34
        assert sum("error" not in row for row in rows.values()) == stage["accepted"]
    rejected = {row["key"]: (row["stage"], row["error"]) for row in read_rows(tmp_path / "out" / "rejected.parquet")}
    assert rejected == {
        "folder/bad.png": ("decode", "not_a_picture"),
        "folder/empty.jpg": ("decode", "empty_file"),
        "folder/gone.png": ("scan", "missing_file"),
        "folder/out.png": ("scan", "link_outside"),
    }
    scanned = rows_of(tmp_path / "out", "scan")
    assert scanned["folder/rec-01.png"]["captions"] == {"text": "number 1"}
    assert "not UTF-8 text" in scanned["folder/rec-00.png"]["caption_error"]
    assert rows_of(tmp_path / "out", "size")["folder/rec-01.png"] == {
        "key": "folder/rec-01.png",
        "aspect": 1.3,
        "megapixels": 0.00013,
        "bucket": "576x448",
        "enlarged": 44.8,
    }


def test_stored_pictures_are_the_source_bytes(raw, tmp_path):
    about = build_dataset(recipe(raw), tmp_path / "out")
    seen = 0
    for _, unit, _ in about["units"]:
        with ShardReader(tmp_path / "out" / "decode" / unit) as reader:
            for key in reader.index:
                assert reader.read(key) == (raw / key.removeprefix("folder/")).read_bytes()
                seen += 1
    assert seen == 30


def test_the_number_of_workers_and_the_place_of_the_source_change_nothing(raw, tmp_path):
    first = build_dataset(recipe(raw, workers=1), tmp_path / "one")
    moved = raw.rename(tmp_path / "moved")
    assert build_dataset(recipe(moved, workers=3), tmp_path / "three") == first
    assert (tmp_path / "one" / "manifest.jsonl").read_bytes() == (tmp_path / "three" / "manifest.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("what", "reason", "detail"),
    [
        ("segfault", "crashed", "SIGSEGV"),
        ("abort", "crashed", "SIGABRT"),
        ("exit", "crashed", "exit code 3"),
        ("hang", "timeout", "the time limit of one record was exceeded"),
        ("memory", "out_of_memory", "the memory limit of one worker was exceeded"),
        ("killed", "killed", "SIGKILL from outside"),
    ],
)
def test_a_record_that_ends_its_worker_is_refused_alone(raw, tmp_path, odd, what, reason, detail):
    links = [*links_of(recipe(raw), HOST), odd(what=what)]
    about = build_dataset(recipe(raw, record_timeout_s=1.0), tmp_path / "out", links=links)
    assert (about["accepted"], about["rejected"]) == (29, 1)
    assert about["stages"][-1]["rejected"] == {reason: 1}
    assert read_rows(tmp_path / "out" / "rejected.parquet") == [
        {"key": f"folder/{ODD}.png", "error": reason, "detail": detail, "stage": "odd"}
    ]


def test_a_record_is_not_blamed_for_one_kill_from_outside(raw, tmp_path, odd):
    (tmp_path / "marks").mkdir()
    links = [*links_of(recipe(raw), HOST), odd(what="killed once", marks=str(tmp_path / "marks"))]
    about = build_dataset(recipe(raw), tmp_path / "out", links=links)
    assert about["rejected"] == 0
    assert len(list((tmp_path / "marks").iterdir())) == 1


@pytest.mark.parametrize(
    ("build", "message"),
    [
        ("Odd", r"ValueError: no idea \(odd_stages\.py:\d+\)"),
        ("Short", r"stage odd: \d+ outcomes for \d+ records; a stage must give one for each, in order"),
        ("Greedy", r"stage odd: the column names key belong to the engine"),
    ],
)
def test_a_faulty_stage_fails_units_by_name_and_keeps_the_rest(raw, tmp_path, odd, build, message):
    links = [*links_of(recipe(raw), HOST), odd(build, what="raise" if build == "Odd" else "nothing")]
    with pytest.raises(BuildFailed, match=rf"units failed; all others are done and kept:\n  odd/\w+ \(folder/rec-.*: {message}"):
        build_dataset(recipe(raw), tmp_path / "out", links=links)
    if build == "Odd":
        assert len(units(tmp_path / "out")["odd"]) == len(units(tmp_path / "out")["size"]) - 1
    about = build_dataset(recipe(raw), tmp_path / "out", links=[*links[:-1], odd(what="nothing")])
    assert about["rejected"] == 0


def test_a_change_redoes_the_units_it_affects_and_no_others(raw, tmp_path):
    out = tmp_path / "out"
    build_dataset(recipe(raw), out)
    first, seen = units(out), {p: p.stat().st_mtime_ns for p in out.rglob("rows.parquet")}

    build_dataset(recipe(raw), out)  # nothing
    assert units(out) == first
    assert {p: p.stat().st_mtime_ns for p in out.rglob("rows.parquet")} == seen

    build_dataset(
        recipe(raw, stages=(Selection("decode", DecodeConfig()), Selection("size", SizeConfig(size_px=256)))), out
    )  # the last stage's options
    second = units(out)
    assert (second["scan"], second["decode"]) == (first["scan"], first["decode"])
    assert not second["size"] & first["size"]
    assert len(list((out / "size").iterdir())) == len(second["size"]), "what no line names is removed"

    build_dataset(
        recipe(raw, stages=(Selection("decode", DecodeConfig(max_megapixels=32)), Selection("size", SizeConfig(size_px=256)))), out
    )
    third = units(out)  # other options with the same outcome: decoded again, and what follows recognises its input
    assert not third["decode"] & second["decode"]
    assert (third["scan"], third["size"]) == (second["scan"], second["size"])

    Image.new("RGB", (20, 20)).save(raw / "rec-04.png")  # one picture
    build_dataset(
        recipe(raw, stages=(Selection("decode", DecodeConfig(max_megapixels=32)), Selection("size", SizeConfig(size_px=256)))), out
    )
    fourth = units(out)
    assert [len(fourth[stage] - third[stage]) for stage in ("scan", "decode", "size")] == [1, 1, 1]


def test_a_new_record_changes_only_the_units_around_it(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    for i in range(200):
        (raw / f"{i:04d}.bmp").write_bytes(b"BM%d" % i)
    out = tmp_path / "out"
    build_dataset(recipe(raw, stages=(), unit_rows=10), out)
    first = units(out)["scan"]
    (raw / "0000a.bmp").write_bytes(b"BMx")
    build_dataset(recipe(raw, stages=(), unit_rows=10), out)
    second = units(out)["scan"]
    assert len(first) > 12
    assert 1 <= len(second - first) <= 4


def test_a_second_build_on_one_output_is_refused(raw, tmp_path):
    with io.FolderLock(tmp_path / "out"), pytest.raises(RunFolderError, match=rf"out: in use by pid {os.getpid()} on .*, started \d{{4}}-"):
        build_dataset(recipe(raw), tmp_path / "out")


def test_verify_finds_flipped_bytes_and_rebuilds_those_units(raw, tmp_path):
    out = tmp_path / "out"
    about = build_dataset(recipe(raw), out)
    units_of = about["units"]
    damaged = [
        out / "decode" / units_of[0][1] / "pictures.tar",
        out / "decode" / units_of[1][1] / "index.parquet",
        out / "decode" / units_of[2][1] / "rows.parquet",
        out / "scan" / units_of[0][0] / "manifest.json",
    ]
    good = [path.read_bytes() for path in damaged]
    for path, content in zip(damaged, good):
        path.write_bytes(content[:40] + bytes([content[40] ^ 1]) + content[41:])
    again = build_dataset(recipe(raw), out, verify=True)
    assert len(again["repaired"]) == 4
    assert all(any(str(path.parent) in line for line in again["repaired"]) for path in damaged)
    assert [path.read_bytes() for path in damaged] == good
    assert build_dataset(recipe(raw), out, verify=True) == about


def test_a_source_that_changes_during_the_build_is_not_used(raw, tmp_path):
    out = tmp_path / "out"
    build_dataset(recipe(raw, stages=()), out)
    path = raw / "rec-03.png"
    status = path.stat()
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # the listing cannot see it
    about = build_dataset(recipe(raw), out)
    assert about["stages"][1]["rejected"] == {"source_changed": 1}


def test_a_torn_manifest_and_a_lost_line_cost_nothing(raw, tmp_path):
    out = tmp_path / "out"
    about = build_dataset(recipe(raw), out)
    manifest = (out / "manifest.jsonl").read_bytes()
    seen = {p: p.stat().st_mtime_ns for p in out.rglob("rows.parquet")}
    (out / "manifest.jsonl").write_bytes(manifest[: len(manifest) // 2])
    assert build_dataset(recipe(raw), out) == about
    assert (out / "manifest.jsonl").read_bytes() == manifest
    assert {p: p.stat().st_mtime_ns for p in out.rglob("rows.parquet")} == seen, "committed folders are adopted"


def test_tars_and_folders_build_together(raw, tmp_path):
    import tarfile

    with tarfile.open(tmp_path / "more.tar", "w") as archive:
        for path in sorted(raw.iterdir()):
            archive.add(path, path.name)
    sources = (Selection("folder", FolderInput(path=str(raw))), Selection("tar", TarInput(path=str(tmp_path / "more.tar"))))
    both = msgspec.structs.replace(recipe(raw), sources=sources)
    about = build_dataset(both, tmp_path / "out")
    assert (about["records"], about["accepted"]) == (60, 60)
    rows = rows_of(tmp_path / "out", "decode")
    assert rows["tar/more.tar/rec-05"]["pixel_sha256"] == rows["folder/rec-05.png"]["pixel_sha256"]
    assert rows_of(tmp_path / "out", "scan")["tar/more.tar/rec-05"]["captions"] == {"text": "number 5"}


def test_folders_of_metadata_links_and_loose_captions(tmp_path):
    raw = tmp_path / "raw"
    (raw / "sub").mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(raw / "sub" / "a.png")
    (raw / "loose.txt").write_text("of nothing")
    (raw / "linked").symlink_to(raw / "sub", target_is_directory=True)
    lines = [{"file_name": name, "text": "t"} for name in ("sub/a.png", "../b.png", "/c.png", "loose.txt", "gone/d.png")]
    (raw / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    about = build_dataset(recipe(raw), tmp_path / "out")
    assert rows_of(tmp_path / "out", "scan")["folder/sub/a.png"]["captions"] == {"text": "t"}
    assert about["ignored_files"] == {".txt": 1, "(link to a folder)": 1}
    assert {row["key"]: row["error"] for row in read_rows(tmp_path / "out" / "rejected.parquet")} == {
        "folder/metadata.jsonl#'../b.png'": "name_refused",
        "folder/metadata.jsonl#'/c.png'": "name_refused",
        "folder/loose.txt": "not_a_picture",
        "folder/gone/d.png": "missing_file",
    }


def test_workers_that_cannot_start_end_the_build_with_their_limit(raw, tmp_path):
    with pytest.raises(WorkersLost, match=r"stage (scan|decode): 16 worker processes in a row ended before.*run\.memory_mib = 8; raise it"):
        build_dataset(recipe(raw, memory_mib=8), tmp_path / "out")
    assert build_dataset(recipe(raw), tmp_path / "out")["accepted"] == 30


# ---- the command ----


def config(folder: Path, text: str) -> Path:
    path = folder / "build.toml"
    path.write_text(text)
    return path


def test_build_and_status_from_the_command_line(raw, tmp_path, capsys):
    (raw / "bad.png").write_bytes(b"hello")
    path = config(tmp_path, '[[sources]]\nuse = "folder"\npath = "raw"\n')
    assert data(["build", str(path), "--out", str(tmp_path / "out"), "--workers", "1"], App()) == 0
    out = capsys.readouterr().out
    assert "31 records = 30 accepted + 1 rejected" in out
    assert "decode: 31 in, 30 accepted, rejected: not_a_picture 1" in out
    assert data(["status", str(tmp_path / "out"), "--verify"], App()) == 0
    out = capsys.readouterr().out
    assert "31 records in 1 units; no build is running" in out
    assert "size: 1 of 1 units, 30 accepted" in out
    with io.FolderLock(tmp_path / "out"):
        data(["status", str(tmp_path / "out")], App())
    assert f"being built by pid {os.getpid()}" in capsys.readouterr().out
    tar = next((tmp_path / "out" / "decode").iterdir()) / "pictures.tar"
    tar.write_bytes(tar.read_bytes()[:-1] + b"x")
    assert data(["status", str(tmp_path / "out"), "--verify", "--json"], App()) == 1
    assert "sha256 differs" in json.loads(capsys.readouterr().out)["damaged"][0]


def test_status_of_another_folder_says_so(tmp_path):
    with pytest.raises(DataError, match=r"no build output \(no plan\.json\); expected a folder made by `ernie data build`"):
        data(["status", str(tmp_path)], App())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("unit_row = 5", r"build\.toml:1: unknown key `unit_row`; did you mean `unit_rows`\?"),
        ("\nunit_rows = 0", r"build\.toml:2: `unit_rows`: expected an integer >= 1, found 0"),
        ("[run]\nworkers = -1", r"build\.toml:2: `run\.workers`: expected an integer >= 0"),
        ("[run]\nworker = 1", r"build\.toml:2: unknown key `run\.worker`; did you mean `workers`\?"),
        (
            '[[sources]]\nuse = "foldr"\npath = "x"',
            r'build\.toml:2: `sources\[0\]\.use`: no input is called "foldr"; did you mean "folder"\? Known: folder, tar, parquet',
        ),
        ('[[sources]]\npath = "x"', r"missing key `sources\[0\]\.use`: expected the name of a input"),
        ('[[sources]]\nuse = "folder"', r"missing key `sources\[0\]\.path`"),
        ('sources = "raw"', r"`sources`: expected a list"),
        ("", r"missing key `sources`"),
        ('[[stages]]\nuse = "size"\n[[sources]]\nuse = "folder"\npath = "x"', r"the first stage must be `decode`.*found `size`"),
        (
            'sources = [{use = "folder", path = "x"}]\n[[stages]]\nuse = "decode"\n[[stages]]\nuse = "decode"',
            r"`decode` stands more than once",
        ),
        ('[[stages]]\nuse = "decode"\nshrink_to_px = 9', r'choose format = "jpeg", "png" or "webp"'),
        ('[[stages]]\nuse = "decode"\nformat = "gif"', r'build\.toml:3: `stages\[0\]\.format`: expected "jpeg"'),
        (
            '[[sources]]\nuse = "folder"\npath = "a"\n[[sources]]\nuse = "folder"\npath = "b"',
            r"two sources are named 'folder'; give each its own `name`",
        ),
        ("a = ", r"not valid TOML"),
    ],
)
def test_wrong_configs_are_refused_with_every_detail(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load_recipe(config(tmp_path, text), App())


def test_a_path_of_the_file_is_seen_from_the_file_and_one_of_the_command_line_from_here(tmp_path, monkeypatch):
    (tmp_path / "recipes").mkdir()
    path = config(tmp_path / "recipes", 'sources = [{ use = "folder", path = "raw" }]\n')
    monkeypatch.chdir(tmp_path)
    assert load_recipe(path, App()).inputs[0].path == str(tmp_path / "recipes" / "raw")
    assert load_recipe(path, App(), overrides=("sources.0.path=other",)).inputs[0].path == "other"


def test_a_missing_source_and_an_empty_one_are_named(tmp_path):
    with pytest.raises(DataError, match=r"gone: no such folder \(source `folder`\)"):
        build_dataset(recipe(tmp_path / "gone"), tmp_path / "out")
    (tmp_path / "raw").mkdir()
    with pytest.raises(DataError, match=r"raw: nothing found \(source `folder`\); expected files that end in \.png"):
        build_dataset(recipe(tmp_path / "raw"), tmp_path / "out")


def test_workers_end_with_their_driver(raw, tmp_path, odd):
    """A driver that is killed leaves nobody behind who might still write."""
    import signal
    import time

    script = (
        "from pathlib import Path\nfrom ernie_data.engine.build import build_dataset, links_of\n"
        "from ernie_core.api import PluginHost, Selection\nfrom ernie_data.engine.chain import Link\nfrom ernie_data.recipe import *\n"
        f"r = Recipe(sources=(Selection('folder', FolderInput(path={str(raw)!r})),), stages=(), unit_rows=8, run=RunOptions(workers=2))\n"
        "odd = Link('odd', 'odd_stages:Odd', 'odd_stages:OddConfig', {'what': 'hang'})\n"
        f"build_dataset(r, Path({str(tmp_path / 'out')!r}), links=[*links_of(r, PluginHost.discover()), odd])\n"
    )
    driver = subprocess.Popen([sys.executable, "-c", script])
    until = time.monotonic() + 60
    while not (children := _children(driver.pid)) or not (tmp_path / "out" / "odd").exists():
        assert time.monotonic() < until
        time.sleep(0.01)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    while any(Path(f"/proc/{pid}").exists() and _parent(pid) not in (None,) for pid in children):
        assert time.monotonic() < until, "a worker outlived its driver"
        time.sleep(0.01)


def _children(pid: int) -> list[int]:
    return [int(p.name) for p in Path("/proc").glob("[0-9]*") if _parent(int(p.name)) == pid]


def _parent(pid: int) -> int | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[1])


def test_recipes_hold_only_plain_options(raw):
    assert [msgspec.json.encode(link) for link in links_of(recipe(raw), HOST)]


def test_a_finished_build_leaves_what_is_not_its_own(raw, tmp_path):
    out = tmp_path / "out"
    checkpoint = out / "checkpoints" / "step-00000001"
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").write_text("{}")
    build_dataset(Recipe(sources=(Selection("folder", FolderInput(path=str(raw))),), run=RunOptions(workers=1)), out)
    assert (checkpoint / "manifest.json").read_text() == "{}"


def test_status_verify_tells_of_files_that_are_gone_or_cut(raw, tmp_path, capsys):
    out = tmp_path / "out"
    about = build_dataset(Recipe(sources=(Selection("folder", FolderInput(path=str(raw))),), run=RunOptions(workers=1)), out)
    assert data(["status", str(out), "--verify"], App()) == 0
    shard = out / "decode" / about["units"][0][1] / "pictures.tar"
    shard.write_bytes(shard.read_bytes()[:-512])
    assert data(["status", str(out), "--verify"], App()) == 1
    assert "pictures.tar" in capsys.readouterr().err


def test_names_in_metadata_that_no_file_can_have_are_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    names = ["x" * 300 + ".png", "\ud800.png"]
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps({"file_name": name, "text": "t"}) + "\n" for name in names))
    places = list_sources([FolderInput(path=str(tmp_path))]).places
    assert sorted(place.error for place in places) == ["", "missing_file", "name_refused"]
    msgspec.json.encode(places)


def test_tars_whose_names_no_key_can_hold_are_told(tmp_path):
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.tar")).write_bytes(b"")
    with pytest.raises(DataError, match="not UTF-8; rename it"):
        list_sources([TarInput(path=str(tmp_path))])


def test_a_unit_may_hold_more_pictures_than_fit_into_a_worker(tmp_path):
    (tmp_path / "raw").mkdir()
    for i in range(10):
        Image.fromarray(np.full((3200, 3200, 3), i, np.uint8)).save(tmp_path / "raw" / f"{i:02d}.bmp")  # 31 MB each
    recipe = Recipe(
        sources=(Selection("folder", FolderInput(path=str(tmp_path / "raw"))),),
        stages=(Selection("decode", DecodeConfig(max_megapixels=16)),),
        run=RunOptions(workers=1, memory_mib=768),
    )
    about = build_dataset(recipe, tmp_path / "out")
    assert (about["accepted"], len(about["units"])) == (10, 1)
