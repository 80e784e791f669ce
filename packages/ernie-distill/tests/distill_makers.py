"""Tiny runs that the tests of this package begin from."""

from ernie_core.api import from_plain
from ernie_core.testing.resume import one_thread
from ernie_core.testing.runs import TINY_RUN, merged
from ernie_core.train.start import train

ADAPTER = {"rank": 2, "targets": ["all"]}  # a new model gives 0: only the last map can learn at first
DATA = {"data": {"use": "memory-pictures"}, "samples": {"guidance_scale": 1.0, "steps": 3}}
SIZES = ("hidden_size", "num_attention_heads", "num_layers", "ffn_hidden_size")
SHORT = {"steps": 3, "fake_steps": 2, "fake_warmup_steps": 1, "teacher_steps": 4, "gate": {"use": "memory-gate"}}


def options(**changes):
    return {"use": "mt-dmd", "adapter": ADAPTER, **SHORT, **changes}


def run(tables, out, host, report=lambda line: None):
    with one_thread():
        train(from_plain(tables, host), host=host, out=out, report=report)
    return out


def from_teacher(teacher, *changes):
    """Tables of a short run that starts from a trained model."""
    base = merged(TINY_RUN, DATA, {"run": {"steps": 4}, "samples": {"every_steps": 0}, "model": {"init": str(teacher)}}, *changes)
    return {**base, "model": {k: v for k, v in base["model"].items() if k not in SIZES}}
