"""Tar shards: deterministic bytes, readable by others, and no byte used that was not verified (L3)."""

import hashlib
import io
import json
import os
import tarfile
import time

import numpy as np
import pytest

from ernie_core.api import DataError
from ernie_data.shards import INDEX, SHARD, Sample, ShardReader, index_bytes, member_id, write_shard
from ernie_data.sources.tarread import read_members

RNG = np.random.default_rng(0)
SAMPLES = [
    Sample(f"src/{i:03d} \u00e4.png", RNG.bytes(int(RNG.integers(1, 2000))), "png", {"captions": {"text": f"n {i}"}}) for i in range(100)
]


def written(folder, samples=SAMPLES):
    buffer = io.BytesIO()
    index = write_shard(samples, buffer)
    (folder / SHARD).write_bytes(buffer.getvalue())
    (folder / INDEX).write_bytes(index_bytes(index))
    return buffer.getvalue(), index


def test_bytes_depend_on_content_alone(tmp_path, monkeypatch):
    data, index = written(tmp_path)
    monkeypatch.setattr(os, "getuid", lambda: 77)
    monkeypatch.setattr(time, "time", lambda: 1e9)
    again, index_again = written(tmp_path, SAMPLES[::-1])
    assert (again, index_again) == (data, index)


def test_tarfile_and_our_own_reader_agree_with_the_index(tmp_path):
    data, index = written(tmp_path)
    with tarfile.open(tmp_path / SHARD) as archive:
        members = archive.getmembers()
        assert [m.name for m in members] == sorted(m.name for m in members)
        assert {(m.mtime, m.uid, m.gid, m.mode, m.uname) for m in members} == {(0, 0, 0, 0o644, "")}
        by_name = {m.name: m for m in members}
        for sample in SAMPLES:
            name = member_id(sample.key)
            assert archive.extractfile(by_name[f"{name}.png"]).read() == sample.picture
            assert json.load(archive.extractfile(by_name[f"{name}.json"])) == {"key": sample.key, **sample.about}
    assert len(members) == 200
    ours = {m.name: (m.offset, m.size) for m in read_members(tmp_path / SHARD)}
    assert {row["name"]: (row["offset"], row["size"]) for row in index}.items() <= ours.items()
    for row in index:
        assert hashlib.sha256(data[row["offset"] : row["offset"] + row["size"]]).hexdigest() == row["sha256"]


def test_pictures_are_read_back_by_key(tmp_path):
    written(tmp_path)
    with ShardReader(tmp_path) as reader:
        assert [reader.read(s.key) for s in SAMPLES] == [s.picture for s in SAMPLES]
        with pytest.raises(DataError, match=r"pictures\.tar: holds no picture with the key 'nobody'"):
            reader.read("nobody")


def test_l3_each_of_100_flipped_bytes_is_detected(tmp_path):
    data, index = written(tmp_path)
    detected = 0
    for row in index:
        at = row["offset"] + int(RNG.integers(row["size"]))
        (tmp_path / SHARD).write_bytes(data[:at] + bytes([data[at] ^ 1 << int(RNG.integers(8))]) + data[at + 1 :])
        with ShardReader(tmp_path) as reader:
            with pytest.raises(
                DataError, match=r"pictures\.tar: sha256 of '.*' differs from the index \(expected \w{12}\.\.\., found \w{12}\.\.\.\)"
            ):
                reader.read(row["key"])
            other = next(r for r in index if r is not row)
            assert len(reader.read(other["key"])) == other["size"]
        detected += 1
    assert detected == 100


def test_a_shard_that_was_cut_off_is_detected(tmp_path):
    data, index = written(tmp_path)
    (tmp_path / SHARD).write_bytes(data[: index[-1]["offset"] + 1])
    with ShardReader(tmp_path) as reader, pytest.raises(DataError, match="differs from the index"):
        reader.read(index[-1]["key"])


def test_a_missing_shard_is_named(tmp_path):
    written(tmp_path)
    (tmp_path / SHARD).unlink()
    with pytest.raises(DataError, match=r"pictures\.tar: cannot be opened \(No such file or directory\); run `ernie data build` again"):
        ShardReader(tmp_path)


def test_an_empty_shard_is_a_tar(tmp_path):
    data, index = written(tmp_path, [])
    assert (index, data) == ([], bytes(1024))
    with tarfile.open(tmp_path / SHARD) as archive:
        assert archive.getmembers() == []
