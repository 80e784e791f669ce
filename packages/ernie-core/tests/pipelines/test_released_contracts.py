"""The parts of a released pipeline keep the contracts that every codec and prompt encoder keeps."""

import pytest

from ernie_core.testing.codecs import CodecContract, PromptEncoderContract


class TestFlux2(CodecContract):
    entry = "flux2"

    @pytest.fixture(autouse=True)
    def _from_disk(self, pipeline_folder, monkeypatch):
        monkeypatch.setattr(type(self), "options", {"path": str(pipeline_folder)})


class TestMinistral3(PromptEncoderContract):
    entry = "ministral3"

    @pytest.fixture(autouse=True)
    def _from_disk(self, pipeline_folder, monkeypatch):
        monkeypatch.setattr(type(self), "options", {"path": str(pipeline_folder)})
