"""Tiny training runs for tests: a config of seconds, and sums over everything a run has learnt. Light until a run is opened."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ernie_core import io
from ernie_core.config.toml import to_toml
from ernie_core.train.checkpoint import STATE, open_checkpoint
from ernie_core.train.observers import METRICS

Plain = dict[str, Any]

TINY_RUN: Plain = {
    "codec": {"use": "pixel", "patch": 4},
    "encoder": {"use": "bytes", "width": 32, "byte_width": 16},
    "model": {"hidden_size": 32, "num_attention_heads": 2, "num_layers": 1, "ffn_hidden_size": 64},
    "run": {"micro_batch_size": 2},
    "optimizer": {"learning_rate": 1e-3, "weight_decay": 0.01},
    "schedule": {"kind": "cosine", "warmup_steps": 3},
    "ema": {"decay": 0.9},
    "checkpoint": {"every_steps": 4, "keep": 2},
    "validation": {"every_steps": 5, "samples": 2},
    "samples": {"every_steps": 6, "prompts": ["red", "blue"], "steps": 2},
    "logging": {"every_steps": 1, "tensorboard": False},
    "stages": [{"size_px": 16, "steps": 6, "batch_size": 4}, {"size_px": 24, "steps": 6, "batch_size": 4}],
}
"""Twelve steps in two stages, two micro-batches each, with everything a run can do; needs a ``data`` table. Half a second on one core."""


def merged(base: Mapping[str, Any], *changes: Mapping[str, Any]) -> Plain:
    """``base`` with tables merged key by key; a ``{ use = ... }`` table and a list replace what was there."""
    result: Plain = dict(base)
    for change in changes:
        for key, value in change.items():
            old = result.get(key)
            tables = isinstance(old, Mapping) and isinstance(value, Mapping) and "use" not in value
            result[key] = merged(old, value) if tables else value  # type: ignore[arg-type]
    return result


def write_config(path: Path, plain: Mapping[str, Any]) -> Path:
    path.write_text(to_toml(plain), encoding="utf-8")
    return path


def digest(run: Path) -> dict[str, str]:
    """sha256 of every tensor file (weights, EMA, optimiser) and of the trainer's and method's state in a run's newest checkpoint, verified.

    The config, plugin set and versions are left out: two runs that have learnt the same are equal.
    """
    checkpoint = open_checkpoint(run)
    sums = {name: str(fact["sha256"]) for name, fact in io.read_manifest(checkpoint.directory)["files"].items() if name != STATE}
    state = {key: value for key, value in checkpoint.state.items() if key not in ("config", "plugins", "versions")}
    return {**sums, STATE: hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()}


def logged(run: Path, name: str = "loss") -> dict[int, float]:
    """One metric by step, from ``metrics.jsonl``."""
    rows = [json.loads(line) for line in io.read_lines(run / METRICS)]
    return {row["step"]: row[name] for row in rows if name in row}


def leftovers(run: Path) -> list[str]:
    """Temporary names under a run folder: there are none once a run has ended well."""
    return sorted(str(path.relative_to(run)) for path in run.rglob(".tmp-*"))
