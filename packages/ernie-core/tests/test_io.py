"""Durable writes: a name holds its old content or the whole new one, logs lose at most a torn last line, and every refusal is one readable error."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
from pathlib import Path

import pytest

from ernie_core import io
from ernie_core.errors import RunFolderError, StorageError

WRITE = ("write", "fsync", "rename", "fsync_dir")


def operations(run) -> list[str]:
    seen: list[str] = []
    with io.observing(lambda operation, path: seen.append(operation)):
        run()
    return seen


def failing(operation: str, number: int):
    def observe(found: str, path: Path) -> None:
        if found == operation:
            raise OSError(number, os.strerror(number))

    return io.observing(observe)


def test_a_file_is_written_fsynced_renamed_and_its_folder_fsynced_in_this_order(tmp_path):
    assert tuple(operations(lambda: io.write_bytes(tmp_path / "x", b"new"))) == WRITE
    assert (tmp_path / "x").read_bytes() == b"new"


@pytest.mark.parametrize("operation", WRITE)
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES])
def test_a_write_that_fails_leaves_old_or_new_content_and_nothing_else(tmp_path, operation, number):
    path = tmp_path / "x"
    path.write_bytes(b"old")
    with failing(operation, number), pytest.raises(StorageError) as caught:
        io.write_bytes(path, b"new!")
    assert path.read_bytes() == (b"new!" if operation == "fsync_dir" else b"old")
    assert os.listdir(tmp_path) == ["x"]
    text = str(caught.value)
    assert text.startswith(f"{path}: cannot be written: {os.strerror(number)} (needed 4 bytes, ")
    assert " bytes free). What was there before is intact." in text


def test_an_unexpected_error_is_not_disguised(tmp_path):
    with failing("fsync", errno.EBADF), pytest.raises(OSError) as caught:
        io.write_bytes(tmp_path / "x", b"")
    assert not isinstance(caught.value, StorageError)


def test_json_is_sorted_and_refuses_what_json_cannot_hold(tmp_path):
    io.write_json(tmp_path / "a", {"b": 1, "a": "ü"})
    io.write_json(tmp_path / "b", {"a": "ü", "b": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="JSON"):
            io.write_json(tmp_path / "a", {"x": value})
    assert json.loads((tmp_path / "a").read_bytes()) == {"a": "ü", "b": 1}


def test_a_copy_is_byte_for_byte(tmp_path):
    (tmp_path / "a").write_bytes(os.urandom(100_000))
    io.copy_file(tmp_path / "a", tmp_path / "b")
    assert io.sha256_file(tmp_path / "a") == io.sha256_file(tmp_path / "b")


# ---- logs ----


def test_a_torn_last_line_is_dropped_and_never_glued_to_the_next(tmp_path):
    log = tmp_path / "log"
    io.append_line(log, "one")
    with log.open("ab") as file:
        file.write(b'{"torn": ')
    assert io.read_lines(log) == ["one"]
    io.append_line(log, "two", durable=True)
    assert io.read_lines(log) == ["one", '{"torn": ', "two"]
    io.rewrite_lines(log, lambda line: not line.startswith("{"))
    assert log.read_bytes() == b"one\ntwo\n"


def test_rewriting_drops_a_torn_line_and_leaves_an_unchanged_log_alone(tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"one\ntwo\nthr")
    io.rewrite_lines(log, lambda line: True)
    assert log.read_bytes() == b"one\ntwo\n"
    assert operations(lambda: io.rewrite_lines(log, lambda line: True)) == []
    io.rewrite_lines(tmp_path / "absent", lambda line: True)
    assert not (tmp_path / "absent").exists()


def test_a_log_on_a_full_disk_is_a_storage_error(tmp_path):
    with failing("append", errno.ENOSPC), pytest.raises(StorageError, match="No space left on device"):
        io.append_line(tmp_path / "log", "line")


# ---- folders ----


def test_a_new_folders_name_is_made_durable_at_every_level(tmp_path):
    seen: list[tuple[str, Path]] = []
    with io.observing(lambda operation, path: seen.append((operation, path))):
        io.make_folder(tmp_path / "a" / "b")
    assert seen == [("mkdir", tmp_path / "a" / "b"), ("fsync_dir", tmp_path), ("fsync_dir", tmp_path / "a")]
    assert operations(lambda: io.make_folder(tmp_path / "a" / "b")) == ["mkdir"]


def test_a_folder_appears_whole_with_a_manifest(tmp_path):
    with io.commit_folder(tmp_path / "done", facts={"step": 3}) as writer:
        writer.add_bytes("sub/x", b"123")
        writer.add_json("y.json", {"a": 1})
        assert not (tmp_path / "done").exists()
    assert io.verify_folder(tmp_path / "done") is None
    manifest = io.read_manifest(tmp_path / "done")
    assert manifest["step"] == 3
    assert manifest["files"]["sub/x"]["bytes"] == 3
    with (
        pytest.raises(StorageError, match="already exists, and finished folders are never overwritten"),
        io.commit_folder(tmp_path / "done"),
    ):
        pass


def test_a_folder_whose_making_fails_leaves_nothing(tmp_path):
    with pytest.raises(KeyError), io.commit_folder(tmp_path / "half") as writer:
        writer.add_bytes("x", b"1")
        raise KeyError
    assert os.listdir(tmp_path) == []


def test_a_full_disk_told_only_in_words_is_a_storage_error(tmp_path):
    def write(path: Path) -> None:
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")

    with pytest.raises(StorageError, match="No space left on device"), io.commit_folder(tmp_path / "x", needed_bytes=10) as writer:
        writer.add_file("a", write)
    with pytest.raises(RuntimeError, match="something else"), io.commit_folder(tmp_path / "x") as writer:
        writer.add_file("a", lambda path: (_ for _ in ()).throw(RuntimeError("something else")))


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda folder: (folder / "x").unlink(), "x: missing"),
        (lambda folder: (folder / "x").write_bytes(b"12"), "x: 2 bytes, the manifest says 3"),
        (lambda folder: (folder / "x").write_bytes(b"124"), "x: sha256 differs from the manifest (expected a665a459"),
        (lambda folder: (folder / "manifest.json").unlink(), "no manifest.json"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json: unreadable (JSONDecodeError"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "manifest.json: unreadable (TypeError"),
        (lambda folder: (folder / "manifest.json").write_text('{"sha256": 1, "files": {}}'), "does not match its own sha256"),
    ],
)
def test_verification_says_what_is_wrong(tmp_path, damage, expected):
    with io.commit_folder(tmp_path / "done") as writer:
        writer.add_bytes("x", b"123")
    damage(tmp_path / "done")
    assert expected in str(io.verify_folder(tmp_path / "done"))


def test_a_file_that_cannot_be_read_is_damage_and_no_traceback(tmp_path):
    with io.commit_folder(tmp_path / "done") as writer:
        writer.add_bytes("x", b"123")
    with failing("read", errno.EIO):
        assert "x: cannot be read (Input/output error)" in str(io.verify_folder(tmp_path / "done"))


def test_too_little_space_is_refused_before_anything_is_written(tmp_path):
    needed = io.free_bytes(tmp_path)
    with pytest.raises(StorageError) as caught, io.commit_folder(tmp_path / "x", needed_bytes=needed):
        pass
    assert f"about {needed} bytes are to be written and twice that must be free" in str(caught.value)
    assert "Nothing was written or removed. Free some space, or lower checkpoint.keep" in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_a_folder_is_renamed_before_it_is_removed(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "file").write_text("1")
    with failing("unlink", errno.EIO), pytest.raises(StorageError):
        io.remove_folder(tmp_path / "x")
    assert not (tmp_path / "x").exists()
    (left,) = io.sweep_temporary(tmp_path)
    assert left.startswith(".tmp-removed-")
    assert os.listdir(tmp_path) == []
    io.remove_folder(tmp_path / "x")


def test_only_line_feeds_end_a_line_of_a_log(tmp_path):
    lines = ["a line\u2028separator", "next\x85line", "", "form\x0cfeed\r"]
    for line in lines:
        io.append_line(tmp_path / "log", line)
    assert io.read_lines(tmp_path / "log") == lines
    io.rewrite_lines(tmp_path / "log", lambda line: line != lines[1])
    assert io.read_lines(tmp_path / "log") == [lines[0], *lines[2:]]


# ---- locks ----


def test_a_lock_is_exclusive_and_free_after_release(tmp_path):
    with io.FolderLock(tmp_path):
        with pytest.raises(RunFolderError) as caught:
            io.FolderLock(tmp_path)
        assert f"{tmp_path}: in use by pid {os.getpid()} on {socket.gethostname()}, started 2" in str(caught.value)
        assert caught.value.exit_code == 2
    io.FolderLock(tmp_path).release()


def test_a_lock_file_that_cannot_be_made_is_a_storage_error(tmp_path):
    with failing("lock", errno.EROFS), pytest.raises(StorageError, match="lock: cannot be written: Read-only file system"):
        io.FolderLock(tmp_path)


def test_a_stale_lock_file_is_no_obstacle(tmp_path):
    (tmp_path / "lock").write_text("pid 1 on elsewhere, started long ago\n")
    with io.FolderLock(tmp_path):
        assert "elsewhere" not in (tmp_path / "lock").read_text()


@pytest.mark.parametrize("call", [(fcntl, "flock", errno.ENOLCK), (os, "pwrite", errno.ENOSPC)], ids=["no-locks", "full-disk"])
def test_a_lock_that_fails_for_another_reason_is_a_storage_error_and_is_not_kept(tmp_path, monkeypatch, call):
    module, name, number = call

    def refuse(*arguments):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as broken:
        broken.setattr(module, name, refuse)
        with pytest.raises(StorageError, match=f"lock: cannot be written: {os.strerror(number)}"):
            io.FolderLock(tmp_path)
    io.FolderLock(tmp_path).release()
