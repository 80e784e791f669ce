"""Fixtures: a tiny released pipeline on disk, and two real runs of four steps: one that starts from it, and one with pixels and bytes."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # nothing here may reach for a network

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from ernie_core.config.load import from_plain
from ernie_core.plugins.host import PluginHost
from ernie_core.testing.tiny import tiny_pipeline

TOY = Path(__file__).parents[1] / "toy"  # a plugin of the tests; its data source makes pictures without files


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Operations this small only wait for each other on more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def host():
    sys.path.insert(0, str(TOY))
    yield PluginHost.discover(disable=("data",))  # of the workspace's plugins none is needed, so none can stand in the way
    sys.path.remove(str(TOY))


@pytest.fixture(scope="session")
def pipeline():
    return tiny_pipeline()


@pytest.fixture(scope="session")
def pipeline_folder(pipeline, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("released") / "pipeline"
    pipeline.save_pretrained(folder)
    return folder


def run_config(codec: Mapping[str, Any], encoder: Mapping[str, Any], model: Mapping[str, Any], **tables: Any) -> dict[str, Any]:
    return {
        "codec": dict(codec),
        "encoder": dict(encoder),
        "model": dict(model),
        "data": {"use": "toy-pictures"},
        "stages": [
            {"size_px": 32, "steps": 4, "batch_size": 2}
        ],  # what starts at zero lets gradients through to all parts from the third step on
        "optimizer": {"learning_rate": 0.01},
        "ema": {"decay": 0.5},
        "engine": {"use": "single"},
        "samples": {"steps": 3, "guidance_scale": 2.0, "size_px": 32},
        "logging": {"tensorboard": False},
        "data_workers": 0,
        **tables,
    }


SMALL = {"hidden_size": 32, "num_attention_heads": 2, "num_layers": 2, "ffn_hidden_size": 48}
PIXELS = {"use": "pixel", "patch": 4}
BYTES = {"use": "bytes", "width": 24, "byte_width": 16}


@pytest.fixture(scope="session")
def train_run(host, tmp_path_factory) -> Callable[..., Path]:
    """Train four steps of a plain config and return the run folder."""

    def run(plain: Mapping[str, Any]) -> Path:
        from ernie_core.train.start import train

        out = tmp_path_factory.mktemp("run") / "out"
        train(from_plain(plain, host), host=host, out=out)
        return out

    return run


@pytest.fixture(scope="session")
def released_run(pipeline_folder, train_run) -> Path:
    """Four steps of fine-tuning the released pipeline; codec and encoder stay as they are."""
    path = str(pipeline_folder)
    return train_run(run_config({"use": "flux2", "path": path}, {"use": "ministral3", "path": path}, {"init": path}))


@pytest.fixture(scope="session")
def small_run(train_run) -> Path:
    """Pixels and bytes from scratch, encoder trained."""
    return train_run(run_config(PIXELS, BYTES, SMALL))


@pytest.fixture(scope="session")
def make_run(train_run) -> Callable[..., Path]:
    """``small_run`` with other tables."""

    def make(**tables: Any) -> Path:
        return train_run(run_config(PIXELS, BYTES, SMALL) | tables)

    return make
