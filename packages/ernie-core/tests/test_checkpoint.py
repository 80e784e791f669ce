"""Checkpoints: which one is opened, which are kept, and what the errors say."""

from __future__ import annotations

import json

import pytest
import torch

from ernie_core import io
from ernie_core.errors import RunFolderError, WeightsError
from ernie_core.testing.mishaps import without_fsync
from ernie_core.train.checkpoint import FOLDER, LATEST, has_checkpoints, name_of, open_checkpoint, remove_after, save_checkpoint


@pytest.fixture(autouse=True)
def _fast():
    with without_fsync():
        yield


def save(run, step: int, *, keep: int = 2, spare_steps=()):
    value = torch.full((2, 2), float(step))
    tensors = {"net.safetensors": {"w": value}, "ema.net.safetensors": {"w": value + 0.5}, "other.safetensors": {"v": value}}
    return save_checkpoint(run, state={"train": {"step": step}}, tensors=tensors, facts={"plugins": {}}, keep=keep, spare_steps=spare_steps)


def kept(run) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in (run / FOLDER).iterdir())


def test_the_newest_is_opened_and_old_ones_go(tmp_path):
    for step in (1, 2, 3, 10):
        save(tmp_path, step)
    assert kept(tmp_path) == [3, 10]
    assert (tmp_path / LATEST).read_text() == "step-00000010\n"
    checkpoint = open_checkpoint(tmp_path)
    assert (checkpoint.step, checkpoint.notes) == (10, ())
    assert open_checkpoint(tmp_path, step=3).step == open_checkpoint(tmp_path / FOLDER / name_of(3)).step == 3


def test_the_target_of_a_rollback_is_spared(tmp_path):
    for step in (4, 5, 6, 7):
        save(tmp_path, step, spare_steps=(4,))
    assert kept(tmp_path) == [4, 6, 7]


def test_weights_are_the_average_unless_raw(tmp_path):
    save(tmp_path, 1)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.weights("net")["w"][0, 0] == 1.5
    assert checkpoint.weights("net", raw=True)["w"][0, 0] == 1.0
    assert checkpoint.weights("other")["v"][0, 0] == 1.0
    with pytest.raises(
        WeightsError, match=r"absent.safetensors: no such file in this checkpoint; it holds ema.net.safetensors, net.safetensors, other"
    ):
        checkpoint.weights("absent")


def test_one_written_but_never_pointed_to_is_not_used(tmp_path):
    for step in (1, 2):
        save(tmp_path, step)
    (tmp_path / LATEST).write_text(name_of(1) + "\n")
    assert open_checkpoint(tmp_path).step == 1
    remove_after(tmp_path, 1)
    assert kept(tmp_path) == [1]
    for pointer in ("", "step-", "../../etc", "step-00000007\n", "\x00\xff"):  # damaged or to nowhere: the folders themselves are read
        (tmp_path / LATEST).write_text(pointer)
        assert open_checkpoint(tmp_path).step == 1
    (tmp_path / LATEST).unlink()
    assert open_checkpoint(tmp_path).step == 1


def test_saving_a_step_again_keeps_a_whole_one_and_replaces_a_damaged_one(tmp_path):
    folder = save(tmp_path, 3)
    before = (folder / "net.safetensors").stat().st_ino
    save(tmp_path, 3)
    assert (folder / "net.safetensors").stat().st_ino == before
    (folder / "net.safetensors").write_bytes(b"")
    save(tmp_path, 3)
    assert io.verify_folder(folder) is None


def test_a_folder_without_checkpoints_and_one_of_another_format(tmp_path):
    assert not has_checkpoints(tmp_path)
    with pytest.raises(
        RunFolderError, match="holds no checkpoint; expected a run folder, a checkpoint folder or a diffusers pipeline folder"
    ):
        open_checkpoint(tmp_path)
    with io.commit_folder(tmp_path / FOLDER / name_of(1)) as writer:
        writer.add_json("state.json", {"format": 99, "train": {"step": 1}})
    with pytest.raises(RunFolderError, match="format 99, this ernie-core reads 1"):
        open_checkpoint(tmp_path)


def test_everything_in_a_checkpoint_is_safetensors_or_json_and_in_the_manifest(tmp_path):
    folder = save(tmp_path, 1)
    names = {path.name for path in folder.iterdir()}
    assert names == {"net.safetensors", "ema.net.safetensors", "other.safetensors", "state.json", "manifest.json"}
    assert set(io.read_manifest(folder)["files"]) == names - {"manifest.json"}
    for path in folder.glob("*.safetensors"):
        size = int.from_bytes(path.read_bytes()[:8], "little")
        assert isinstance(json.loads(path.read_bytes()[8 : 8 + size]), dict)
