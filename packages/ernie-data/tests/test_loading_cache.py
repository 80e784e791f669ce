"""The cache `disk`: bit for bit or nothing, whole files only, bounded, and shared by processes."""

import os
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie_core import io
from ernie_core.api import ConfigError, PluginHost, PureContext, Selection
from ernie_core.testing.mishaps import without_fsync
from ernie_data.loading.disk_cache import DiskCache, decode_tensor, encode_tensor
from ernie_data.loading.entries import DiskCacheConfig

KEY = "ab" * 32


def cache(folder, limit_bytes=1 << 20) -> DiskCache:
    return DiskCache(folder, limit_bytes=limit_bytes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(3, 4, 5), (1,), ()])
def test_a_tensor_comes_back_to_the_bit(tmp_path, dtype, shape):
    value = torch.randn(shape).to(dtype)
    some = cache(tmp_path)
    assert some.get(KEY) is None
    some.put(KEY, value)
    found = cache(tmp_path).get(KEY)
    assert found.dtype == dtype
    assert found.shape == value.shape
    assert torch.equal(found, value)
    found.zero_()  # its own memory


def test_a_part_of_a_larger_tensor_is_kept_alone(tmp_path):
    whole = torch.randn(8, 100)
    some = cache(tmp_path)
    some.put(KEY, whole[:, 3])
    assert torch.equal(some.get(KEY), whole[:, 3])
    assert some.used_bytes < 400


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_damage_is_ever_taken_for_the_tensor(data):
    good = encode_tensor(KEY, torch.arange(6.0))
    at = data.draw(st.integers(0, len(good) - 1))
    kind = data.draw(st.sampled_from(["flip", "cut", "insert", "drop"]))
    bad = {
        "flip": good[:at] + bytes([good[at] ^ data.draw(st.integers(1, 255))]) + good[at + 1 :],
        "cut": good[:at],
        "insert": good[:at] + bytes([data.draw(st.integers(0, 255))]) + good[at:],
        "drop": good[:at] + good[at + 1 :],
    }[kind]
    found = decode_tensor(bad, KEY)
    assert found is None or (bad == good or torch.equal(found, torch.arange(6.0)))
    assert decode_tensor(good, "cd" * 32) is None, "a file under another's name"


def test_a_damaged_entry_is_written_anew(tmp_path):
    some = cache(tmp_path)
    some.put(KEY, torch.ones(4))
    path = some._path(KEY)
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    assert some.get(KEY) is None
    some.put(KEY, torch.ones(4))
    assert torch.equal(some.get(KEY), torch.ones(4))


def test_a_full_cache_keeps_what_it_has_and_counts_what_others_left(tmp_path):
    some = cache(tmp_path, limit_bytes=2000)
    for i in range(10):
        some.put(f"{i:064d}", torch.zeros(64))
    kept = [i for i in range(10) if some.get(f"{i:064d}") is not None]
    assert kept == [0, 1, 2, 3]
    assert some.used_bytes <= 2000
    again = cache(tmp_path, limit_bytes=2000)
    assert again.used_bytes == some.used_bytes
    again.put("f" * 64, torch.zeros(64))
    assert again.get("f" * 64) is None


def test_a_disk_that_is_full_costs_a_warning_and_no_more(tmp_path):
    some = cache(tmp_path)
    some.put("0" * 64, torch.ones(2))

    def full(operation, path):
        if operation == "write":
            raise OSError(28, os.strerror(28))

    with io.observing(full), pytest.warns(RuntimeWarning, match=r"the cache takes nothing more in this run: .*No space left"):
        some.put(KEY, torch.ones(2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        some.put(KEY, torch.ones(2))
    assert some.get(KEY) is None
    assert torch.equal(some.get("0" * 64), torch.ones(2))


def test_a_write_waits_for_no_disk(tmp_path):
    some, seen = cache(tmp_path), []
    some.put(KEY, torch.ones(2))
    with io.observing(lambda operation, path: seen.append(operation)):
        some.put("ab" + "c" * 62, torch.ones(2))
    assert seen == ["mkdir", "write", "rename"]


def test_other_types_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"keeps tensors of float32, bfloat16, float16, found int64"):
        cache(tmp_path).put(KEY, torch.ones(2, dtype=torch.int64))


def test_it_is_offered_as_disk(tmp_path):
    found = PluginHost.discover().build("caches", Selection("disk", DiskCacheConfig(path=str(tmp_path / "c"), max_gib=0.5)), PureContext())
    assert found.limit_bytes == 1 << 29


def share(folder) -> bool:
    """Three rounds over sixty keys, reading and writing."""
    some = cache(folder, limit_bytes=1 << 24)
    with without_fsync():
        for i in [i for _ in range(3) for i in range(60)]:
            key, value = f"{i:064x}", torch.full((50, 3), float(i))
            found = some.get(key)
            if found is not None and not torch.equal(found, value):
                return False
            some.put(key, value)
    return True


def test_several_processes_share_one_folder(tmp_path):
    children = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking beside idle threads: the children only read and write files
        for _ in range(4):
            if (child := os.fork()) == 0:
                os._exit(0 if share(tmp_path) else 1)
            children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 4
    some = cache(tmp_path)
    assert all(torch.equal(some.get(f"{i:064x}"), torch.full((50, 3), float(i))) for i in range(60))
    assert not list(tmp_path.rglob(".tmp-*"))
