"""The shift a run samples and exports with: its own, else that of the weights it starts from."""

import json

import pytest

from ernie_core.config.load import from_plain
from ernie_core.train.assemble import DEFAULT_SHIFT, inference_shift

PIXELS = {
    "codec": {"use": "pixel"},
    "encoder": {"use": "bytes"},
    "data": {"use": "toy-pictures"},
    "stages": [{"size_px": 32, "steps": 1, "batch_size": 1}],
}
NEW = {"hidden_size": 32, "num_attention_heads": 2, "num_layers": 1, "ffn_hidden_size": 48}


def config(host, model, **tables):
    return from_plain({**PIXELS, "model": model, **tables}, host)


@pytest.fixture
def turbo_folder(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "turbo")
    file = tmp_path / "turbo" / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"shift": 4.0}))
    return tmp_path / "turbo"


def test_a_new_model_has_the_released_base_models_shift(host):
    assert inference_shift(config(host, NEW)) == DEFAULT_SHIFT == 3.0


def test_weights_bring_the_shift_of_their_scheduler_and_the_config_may_override_it(host, turbo_folder):
    assert inference_shift(config(host, {"init": str(turbo_folder)})) == 4.0
    assert inference_shift(config(host, {"init": str(turbo_folder)}, flow={"shift": 2.5})) == 2.5


def test_a_transformer_alone_says_nothing_of_its_scheduler(host, turbo_folder):
    assert inference_shift(config(host, {"init": str(turbo_folder / "transformer")})) == DEFAULT_SHIFT


def test_a_run_hands_its_shift_on(host, train_run):
    first = train_run({**PIXELS, "model": NEW, "flow": {"shift": 1.75}, "logging": {"tensorboard": False}})
    assert inference_shift(config(host, {"init": str(first)})) == 1.75
