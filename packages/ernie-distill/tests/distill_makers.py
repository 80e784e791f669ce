"""Tiny runs that the tests of this package begin from."""

from ernie_core.api import Part, Stage, from_plain
from ernie_core.rng import Rng
from ernie_core.testing.resume import one_thread
from ernie_core.testing.runs import TINY_RUN, merged
from ernie_core.train.assemble import assemble, build_engine
from ernie_core.train.start import train
from ernie_distill.method import MtDmd

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


def committee(made, *kinds):
    experts = [{"name": kind, "path": str(made[kind]), "domains": ["warm"]} for kind in kinds]
    return [{"name": "generalist"}, *experts]


def assembled(tables, host) -> tuple[MtDmd, object, object]:
    config = from_plain(tables, host)
    parts = assemble(config, host, build_engine(config, host), draws=0, note=lambda *_: None)
    return parts.method, parts, config


def one_batch(parts, config, *, step=0, rows=range(4)):
    """Some rows of a global batch of four."""
    stage = Stage(size_px=16, steps=1, batch_size=4)
    refs = parts.source.batch(step, global_batch=4, stage=stage)
    rng = Rng(config.run.seed).step(step)
    return parts.method.prepare(Part(parts.source.fetch(refs[rows.start : rows.stop]), tuple(rows), stage), rng), rng
