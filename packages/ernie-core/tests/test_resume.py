"""R1: a run resumed after any step is bitwise the run that was not interrupted; for pre-training and for the three throw-away methods."""

from __future__ import annotations

import pytest
import torch

from ernie_core.config.load import from_plain
from ernie_core.plugins.host import PluginHost
from ernie_core.testing.resume import ResumeContract, one_thread
from ernie_core.testing.runs import TINY_RUN, merged
from ernie_core.train.checkpoint import open_checkpoint
from ernie_core.train.start import train

TOY_DATA = {"data": {"use": "toy-pictures"}}


class OnToyPictures(ResumeContract):
    tables = TOY_DATA

    @pytest.fixture(autouse=True)
    def _toy(self, toy_host: PluginHost) -> None:
        self.toy_host = toy_host

    def host(self) -> PluginHost:
        return self.toy_host


class TestPretrain(OnToyPictures):
    entry = "pretrain"


class TestPretrainInBfloat16(OnToyPictures):
    entry = "pretrain"
    tables = {**TOY_DATA, "precision": {"compute": "bfloat16"}}
    test_micro_batches_give_the_same_gradients_as_one_batch = None  # up to rounding of activations, which is large here
    test_a_step_changes_what_its_turn_trains_and_nothing_else = None


class TestReference(OnToyPictures):
    entry = "toy-reference"


class TestAlternating(OnToyPictures):
    """Seven steps: one whole period of five turns of the fake score and one of the student, and the next period's first."""

    entry = "toy-alternating"
    tables = {**TOY_DATA, "optimizers": {"fake": {"learning_rate": 2e-3}}}
    steps = 7


class TestEncoder(OnToyPictures):
    entry = "toy-encoder"
    tables = {**TOY_DATA, "optimizers": {"encoder": {"learning_rate": 5e-4, "betas": [0.8, 0.95]}}}


class TestAdapter(OnToyPictures):
    entry = "toy-adapter"


class TestAdapterInBfloat16(OnToyPictures):
    entry = "toy-adapter"
    tables = {**TOY_DATA, "precision": {"compute": "bfloat16"}}
    test_micro_batches_give_the_same_gradients_as_one_batch = None  # up to rounding of activations, which is large here
    test_a_step_changes_what_its_turn_trains_and_nothing_else = None


def test_masters_stay_float32_when_computing_in_bfloat16(toy_host, tmp_path):
    """What is saved has more bits than bfloat16 holds, for every trained network, its average and its moments."""
    plain = merged(TINY_RUN, TOY_DATA, {"precision": {"compute": "bfloat16"}, "run": {"steps": 4}, "samples": {"every_steps": 0}})
    with one_thread():
        train(from_plain(plain, toy_host), host=toy_host, out=tmp_path / "run")
    checkpoint = open_checkpoint(tmp_path / "run")
    for path in checkpoint.directory.glob("*.safetensors"):
        tensors = checkpoint.tensors(path.name)
        assert {t.dtype for t in tensors.values()} == {torch.float32}, path.name
        assert any(not torch.equal(t, t.to(torch.bfloat16).float()) for t in tensors.values()), path.name
