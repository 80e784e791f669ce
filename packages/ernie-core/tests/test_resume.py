"""R1: a run resumed after any step is bitwise the run that was not interrupted; for pre-training and for the three throw-away methods."""

from __future__ import annotations

import pytest

from ernie_core.plugins.host import PluginHost
from ernie_core.testing.resume import ResumeContract

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
