"""K2 and K5: lost power, and disks that refuse, at every operation of one save.

K2 watches the third save of a run, which also removes the oldest checkpoint, and rebuilds at each of its operations the worst disk that POSIX allows if
the power is lost there: a file has the bytes of its last fsync, a folder the names of its last fsync - and once more with all names as they were,
since a disk may well have written those and not the bytes. K5 lets each operation of the same save fail in four ways.
"""

from __future__ import annotations

import errno
import hashlib
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest

from ernie_core import io
from ernie_core.config.load import from_plain
from ernie_core.errors import StorageError
from ernie_core.testing.mishaps import at_operation, read_trace, staged, traced, without_fsync
from ernie_core.testing.resume import one_thread, train_command
from ernie_core.testing.runs import TINY_RUN, digest, leftovers, merged, write_config
from ernie_core.train import trainer
from ernie_core.train.checkpoint import FOLDER, LATEST, name_of, open_checkpoint, save_checkpoint
from ernie_core.train.start import train

PLAIN = merged(
    TINY_RUN,
    {
        "data": {"use": "toy-pictures"},
        "stages": [{"size_px": 16, "steps": 7, "batch_size": 2}],
        "checkpoint": {"every_steps": 2},
        "validation": {"every_steps": 0},
        "samples": {"every_steps": 0},
    },
)
WATCHED_STEP = 6  # its save finds checkpoints 2 and 4, and keeps 4 and 6
ERRNOS = ("ENOSPC", "EIO", "EDQUOT", "EROFS")


class Disk:
    """What of a folder tree would survive lost power. Inodes are held open, so that their numbers are not used again."""

    def __init__(self, root: Path, volatile: tuple[str, ...]) -> None:
        self.root = root
        self._descriptor: dict[int, int] = {}
        self._bytes: dict[int, bytes] = {}
        self._names: dict[int, dict[str, int]] = {}
        for path in (root, *root.rglob("*")):
            if path.is_dir():
                self.fsync_folder(path)
            elif path.name not in volatile:
                self.fsync_file(path)

    def fsync_file(self, path: Path) -> None:
        self._bytes[self._inode(path)] = path.read_bytes()

    def fsync_folder(self, path: Path) -> None:
        self._names[self._inode(path)] = {child.name: self._inode(child) for child in path.iterdir()}

    def rebuild(self, target: Path, *, names_as_they_are: bool) -> Path:
        if names_as_they_are:
            tree = {path.relative_to(self.root): (path.stat().st_ino, path.is_dir()) for path in (self.root, *self.root.rglob("*"))}
        else:
            tree = dict(self._durable(Path(), self.root.stat().st_ino))
        for path, (inode, is_folder) in tree.items():
            new = target / path
            new.mkdir(parents=True, exist_ok=True) if is_folder else new.write_bytes(self._bytes.get(inode, b""))
        return target

    def close(self) -> None:
        for descriptor in self._descriptor.values():
            os.close(descriptor)

    def _durable(self, path: Path, inode: int) -> Iterator[tuple[Path, tuple[int, bool]]]:
        yield path, (inode, inode in self._names or os.path.isdir(f"/proc/self/fd/{self._descriptor[inode]}"))
        for name, child in self._names.get(inode, {}).items():
            yield from self._durable(path / name, child)

    def _inode(self, path: Path) -> int:
        descriptor = os.open(path, os.O_RDONLY)
        inode = os.fstat(descriptor).st_ino
        if inode in self._descriptor:
            os.close(descriptor)
        else:
            self._descriptor[inode] = descriptor
        return inode


def tree_sum(root: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        digest.update(f"{path.relative_to(root)}\n".encode() + (path.read_bytes() if path.is_file() else b"folder"))
    return digest.hexdigest()


@contextmanager
def saving(step: int, wrap: Callable[[], object]) -> Iterator[None]:
    """Inside, the save of ``step`` runs within the context ``wrap()``."""

    def watched(run, *, state, **rest):
        if state["train"]["step"] != step:
            return save_checkpoint(run, state=state, **rest)
        with wrap():
            return save_checkpoint(run, state=state, **rest)

    with mock.patch.object(trainer, "save_checkpoint", watched):
        yield


def go_on(run: Path, host) -> None:
    with one_thread(), without_fsync():
        train(from_plain(PLAIN, host), host=host, out=run)


@pytest.mark.battery
def test_k2_power_lost_at_every_operation_of_a_save_loses_no_checkpoint(toy_host, tmp_path):
    run, disks, operations = tmp_path / "run", {}, []

    @contextmanager
    def watch() -> Iterator[None]:
        disk = Disk(run, volatile=("metrics.jsonl",))

        def snapshot() -> None:
            for names_as_they_are in (False, True):
                target = disk.rebuild(tmp_path / f"disk-{len(operations):03d}-{names_as_they_are}", names_as_they_are=names_as_they_are)
                disks[target] = tree_sum(target)

        def observe(operation: str, path: Path) -> None:
            snapshot()
            operations.append(operation)
            if operation == "fsync":
                disk.fsync_file(path)
            elif operation == "fsync_dir":
                disk.fsync_folder(path)

        with io.observing(observe):
            yield
        snapshot()
        disk.close()

    with saving(WATCHED_STEP, watch):
        go_on(run, toy_host)
    expected = digest(run)
    steps, resumed = [], set()
    for target, content in disks.items():
        checkpoint = open_checkpoint(target)  # verified
        assert checkpoint.step in (WATCHED_STEP - 2, WATCHED_STEP), target
        steps.append(checkpoint.step)
        if content not in resumed:
            resumed.add(content)
            go_on(target, toy_host)
            assert digest(target) == expected, target
            assert leftovers(target) == []
        shutil.rmtree(target)
    assert set(operations) >= {"mkdir", "write", "fsync", "fsync_dir", "rename", "unlink", "read"}
    assert steps[-1] == steps[-2] == WATCHED_STEP, "a finished save is durable"
    assert len(disks) == 2 * (len(operations) + 1)
    print(f"K2: {len(operations)} of {len(operations)} operations of a save, {len(disks)} disks: a valid checkpoint on each")
    print(f"K2: {len(resumed)} of {len(resumed)} different disks resumed bitwise")


# ---- K5 ----


@pytest.fixture
def saved(toy_host, tmp_path):
    """A run with checkpoints 2 and 4, and the arguments of its save at step 6."""
    run, arguments = tmp_path / "saved", {}

    def keep(_run, **rest):
        arguments.update(rest)
        raise StorageError("kept for later")

    def intercept(_run, *, state, **rest):
        return (keep if state["train"]["step"] == WATCHED_STEP else save_checkpoint)(_run, state=state, **rest)

    with mock.patch.object(trainer, "save_checkpoint", intercept), pytest.raises(StorageError, match="kept"):
        go_on(run, toy_host)
    return run, arguments


def assert_intact(run: Path, before: dict[str, str]) -> None:
    checkpoint = open_checkpoint(run)
    assert checkpoint.step in (WATCHED_STEP - 2, WATCHED_STEP)
    if (run / FOLDER / name_of(WATCHED_STEP - 2)).exists():
        assert digest(run / FOLDER / name_of(WATCHED_STEP - 2)) == before


def assert_promised_message(error: StorageError, run: Path, reason: str) -> None:
    text = str(error)
    assert error.exit_code == 1
    assert str(run) in text
    assert reason in text
    assert "bytes free" in text
    assert "needed " in text
    assert "Traceback" not in text


@pytest.mark.battery
def test_k5_each_operation_of_a_save_may_fail_in_four_ways(saved, tmp_path):
    run, arguments = saved
    before = digest(run)
    count = 0

    def counting(operation: str, path: Path) -> None:
        nonlocal count
        count += operation != "read"

    with without_fsync():
        with io.observing(counting):
            save_checkpoint(shutil.copytree(run, tmp_path / "whole"), **arguments)
        whole, operations, failed = digest(tmp_path / "whole"), count, 0
        for name in ERRNOS:
            for number in range(operations):
                broken = shutil.copytree(run, tmp_path / "broken")
                with failing_write(number, name), pytest.raises(StorageError) as caught:
                    save_checkpoint(broken, **arguments)
                assert_promised_message(caught.value, broken, os.strerror(getattr(errno, name)))
                assert_intact(broken, before)
                io.sweep_temporary(broken)
                io.sweep_temporary(broken / FOLDER)
                save_checkpoint(broken, **arguments)  # what a later start does
                assert digest(broken) == whole
                assert (broken / LATEST).read_text().strip() == name_of(WATCHED_STEP)
                assert leftovers(broken) == []
                shutil.rmtree(broken)
                failed += 1
    assert failed == 4 * operations
    print(f"K5: {failed} of {failed}: {operations} operations x {', '.join(ERRNOS)}; old checkpoint intact, message with path and bytes")


def test_k5_a_checkpoint_that_cannot_be_read_back_is_not_pointed_to(saved):
    run, arguments = saved
    before = digest(run)

    def bad_sector(operation: str, path: Path) -> None:
        if operation == "read" and path.name == "encoder.safetensors":
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with (
        io.observing(bad_sector),
        pytest.raises(StorageError, match=r"cannot be read back: .*encoder\.safetensors: cannot be read \(Input/output"),
    ):
        save_checkpoint(run, **arguments)
    assert (run / LATEST).read_text().strip() == name_of(WATCHED_STEP - 2)
    assert_intact(run, before)


@contextmanager
def failing_write(number: int, name: str) -> Iterator[None]:
    """The ``number``-th operation that changes the disk fails; reads for verification do not count."""
    count = 0

    def fail(operation: str, path: Path) -> None:
        nonlocal count
        if operation != "read":
            count += 1
            if count - 1 == number:
                raise OSError(getattr(errno, name), os.strerror(getattr(errno, name)))

    with io.observing(fail):
        yield


def test_k5_a_run_whose_disk_fails_exits_with_1_and_goes_on_bitwise(nursery, tmp_path):
    config = write_config(tmp_path / "run.toml", PLAIN)
    whole = tmp_path / "whole"
    assert nursery.start(train_command(config, whole), log=tmp_path / "log", plan=traced(tmp_path / "trace")).wait() == 0
    writes = [n for n, (operation, path) in enumerate(read_trace(tmp_path / "trace")) if operation == "write" and FOLDER in path.parts]
    for place, name in enumerate(ERRNOS):
        run, log = tmp_path / name, tmp_path / f"log-{name}"
        child = nursery.start(train_command(config, run), log=log, plan=at_operation(writes[9 * place], name))
        assert child.wait() == 1, child.output()
        assert "cannot be written" in child.output()
        assert "What was there before is intact." in child.output()
        assert "Traceback" not in child.output()
        assert nursery.start(train_command(config, run), log=log).wait() == 0
        assert digest(run) == digest(whole)
    print(f"K5: {len(ERRNOS)} of {len(ERRNOS)} runs ended with exit code 1 and went on bitwise")


@pytest.mark.parametrize("limit_bytes", [300, 5_000, 100_000])
def test_k5_a_real_limit_on_file_sizes(saved, limit_bytes):
    """The kernel refuses, not the test: small limits hit the first safetensors file, which a Rust library writes; the large one a later file."""
    run, arguments = saved
    before, limits = digest(run), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limits[1]))
    try:
        with pytest.raises(StorageError) as caught:
            save_checkpoint(run, **arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert_promised_message(caught.value, run, "File too large")
    assert_intact(run, before)
    assert leftovers(run) == []
    save_checkpoint(run, **arguments)
    assert open_checkpoint(run).step == WATCHED_STEP


def test_k5_a_real_full_disk(saved, tmp_path):
    """A file system of 12 MB in memory, filled up once the save has begun."""
    run, arguments = saved
    mount = tmp_path / "mount"
    mount.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(mount)], capture_output=True).returncode:
        pytest.skip("mounting a tmpfs is not permitted here; the test with RLIMIT_FSIZE covers the kernel's refusal")
    try:
        small = shutil.copytree(run, mount / "run")
        before = digest(small)

        def fill(operation: str, path: Path) -> None:
            if operation == "write" and not (mount / "filler").exists():
                (mount / "filler").write_bytes(bytes(io.free_bytes(mount) - 50_000))

        with io.observing(fill), pytest.raises(StorageError) as caught:
            save_checkpoint(small, **arguments)
        assert_promised_message(caught.value, small, "No space left on device")
        assert_intact(small, before)
        assert leftovers(small) == []
        with pytest.raises(StorageError, match=r"twice that must be free; \d+ bytes are free\. Nothing was written or removed"):
            save_checkpoint(small, **arguments)  # the next save sees it coming
        (mount / "filler").unlink()
        save_checkpoint(small, **arguments)
        assert open_checkpoint(small).step == WATCHED_STEP
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_the_staged_mishap_is_over_after_its_context():
    with staged(at_operation(0, "EIO")), pytest.raises(OSError):
        io._announce("write", Path("x"))
    io._announce("write", Path("x"))
