"""What `distill_effect.py` trains: the configs of its parts and its arms. Light."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

GENERALIST = "generalist"
DOMAINS: Mapping[str, tuple[str, ...]] = {"plain": ("circle", "square"), "pointed": ("triangle", "cross")}
GUIDANCE = 3.0
STEPS, TEACHER_STEPS = 8, 50
FAKE_STEPS = 5

_MODEL = """codec = {{ use = "pixel", patch = 4, scale = 1.4 }}
encoder = {{ use = "bytes", width = 128, byte_width = 64 }}
flow = {{ shift = 3.0 }}
run = {{ seed = {seed} }}
checkpoint = {{ every_steps = 300, keep = 2 }}
logging = {{ every_steps = 20, tensorboard = false }}
"""
_GENERALIST = """data = {{ use = "folder", path = "pictures/all" }}
stages = [{{ size_px = 16, steps = {first}, batch_size = 64 }}, {{ size_px = 24, steps = {second}, batch_size = 64 }}]
model = {{ hidden_size = 128, num_attention_heads = 4, num_layers = 4, ffn_hidden_size = 384, rope_layout = "standard" }}
method = {{ use = "pretrain", density = {{ use = "shifted-logit-normal", shift = 3.0 }}, caption_dropout = 0.1 }}
optimizer = {{ learning_rate = 2e-3, betas = [0.9, 0.99] }}
schedule = {{ kind = "linear", warmup_steps = 50, final_factor = 0.05 }}
ema = {{ decay = 0.995 }}
"""
_EXPERT = """data = {{ use = "folder", path = "pictures/{domain}" }}
stages = [{{ size_px = 24, steps = {steps}, batch_size = 64 }}]
model = {{ init = "generalist" }}
method = {{ use = "sft", adapter = {{ rank = 32, targets = ["all"] }}, density = {{ use = "shifted-logit-normal", shift = 3.0 }}, caption_dropout = 0.1 }}
optimizer = {{ learning_rate = 2e-3, betas = [0.9, 0.99] }}
schedule = {{ kind = "linear", warmup_steps = 20, final_factor = 0.05 }}
ema = {{ decay = 0.99 }}
"""
_STUDENT = """data = {{ use = "prompts", path = "prompts.jsonl" }}
stages = [{{ size_px = 24, steps = {steps}, batch_size = {batch} }}]
model = {{ init = "generalist" }}
optimizer = {{ learning_rate = {rate}, betas = [0.0, 0.99] }}
optimizers = {{ fake = {{ learning_rate = {fake_rate}, betas = [0.0, 0.99] }} }}
schedule = {{ kind = "linear", warmup_steps = 50, final_factor = 0.1 }}
ema = {{ decay = 0.98 }}

[validation]
every_steps = 300
samples = 16

[method]
use = "mt-dmd"
steps = {student_steps}
adapter = {{ rank = 32, targets = ["all"] }}
fake_optimizer = "fake"
fake_warmup_steps = {warmup}
reuse_trajectory = true
guidance = {guidance}
"""
_EXPERTS = """
[[method.teachers]]
name = "generalist"

[[method.teachers]]
name = "plain"
path = "plain"
domains = ["plain"]

[[method.teachers]]
name = "pointed"
path = "pointed"
domains = ["pointed"]
"""
_BLEND = """
[[method.teachers]]
name = "mean"
blend = { plain = 0.5, pointed = 0.5 }
"""
_MEAN = 'gate = { use = "constant", match = { mean = 1.0 }, guidance = { mean = 1.0 } }\n'
_HALVES = 'gate = { use = "constant", match = { plain = 0.5, pointed = 0.5 }, guidance = { plain = 0.5, pointed = 0.5 } }\n'
_GUIDED = f"{{ scale = {GUIDANCE} }}"


@dataclass(frozen=True)
class Arm:
    """``method``: what follows the options that all arms share. ``guidance``: the method's table of that name. ``rate``: a factor on the student's learning
    rate."""

    name: str
    about: str
    method: str
    guidance: str = _GUIDED
    rate: float = 1.0


ARMS = (
    Arm("single", "the generalist alone", ""),
    Arm("averaged", "one teacher: the generalist with the mean of both experts' parameters", _MEAN + _EXPERTS + _BLEND),
    Arm("uniform", "both experts, each with weight 1/2 for every prompt", _HALVES + _EXPERTS),
    Arm("gated", "both experts, each for the prompts of its domain (gate `product`)", _EXPERTS),
    Arm(
        "whole-range",
        "as gated, guidance at all noise levels (`below_step = false`)",
        _EXPERTS,
        f"{{ scale = {GUIDANCE}, below_step = false }}",
    ),
    Arm("slow", "as gated, half the learning rate of the student", _EXPERTS, rate=0.5),
    Arm("dmd2", "as gated, terms coupled at one noise level, DMD2's normaliser", 'coupled = true\nnormaliser = "shared-cfg"\n' + _EXPERTS),
    Arm("match-only", "as gated, without guidance", _EXPERTS, "{ weight = 0.0 }"),
)


def generalist_config(first: int, second: int) -> str:
    """``first`` steps at 16 px and ``second`` at 24."""
    return _MODEL.format(seed=0) + _GENERALIST.format(first=first, second=second)


def expert_config(domain: str, steps: int) -> str:
    return _MODEL.format(seed=0) + _EXPERT.format(domain=domain, steps=steps)


def student_config(arm: Arm, *, seed: int, updates: int, warmup: int, batch: int, rate: float, fake_rate: float) -> str:
    """``updates`` of the student, after ``warmup`` turns of the fake score alone."""
    steps = warmup + (FAKE_STEPS + 1) * updates
    shared = _STUDENT.format(
        steps=steps, batch=batch, rate=arm.rate * rate, fake_rate=fake_rate, student_steps=STEPS, warmup=warmup, guidance=arm.guidance
    )
    return _MODEL.format(seed=seed) + shared + arm.method
