"""An observer that has seen enough: the run stops with its reason, the checkpoints it spared stay, and nothing newer is written."""

import json

import pytest

from ernie_core.config.load import from_plain
from ernie_core.errors import TrainingStopped
from ernie_core.testing.resume import one_thread
from ernie_core.testing.runs import TINY_RUN, merged
from ernie_core.train.start import train

SHORT = merged(
    TINY_RUN,
    {
        "data": {"use": "toy-pictures"},
        "run": {"steps": 12},
        "samples": {"every_steps": 0},
        "validation": {"every_steps": 0},
        "checkpoint": {"every_steps": 2, "keep": 2},
        "logging": {"every_steps": 1},
    },
)


def test_a_run_stops_when_an_observer_asks_and_keeps_what_it_spared(tmp_path, toy_host, monkeypatch):
    monkeypatch.setenv("TOY_STOP", "9")
    monkeypatch.setenv("TOY_SPARE", "2")
    with one_thread(), pytest.raises(TrainingStopped, match=r"step 9: the loss was \d\.\d\d"):
        train(from_plain(SHORT, toy_host), host=toy_host, out=tmp_path / "run")
    assert sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir()) == ["step-00000002", "step-00000006", "step-00000008"]
    ledger = [json.loads(line) for line in (tmp_path / "run" / "ledger.jsonl").read_text().splitlines()]
    assert ledger[-1]["event"] == "stopped"
    monkeypatch.delenv("TOY_STOP")
    with one_thread():
        assert train(from_plain(SHORT, toy_host), host=toy_host, out=tmp_path / "run").step == 12
