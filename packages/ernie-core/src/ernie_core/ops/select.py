"""Choosing an op set by name for a device and a dtype. Asking by name for an unusable one is an error that says why; ``auto`` says what it chose."""

from __future__ import annotations

import importlib.util

import torch

from ernie_core.config.base import Config
from ernie_core.errors import MissingComponent
from ernie_core.ops.apex_detect import detect_apex
from ernie_core.ops.opset import OpSet
from ernie_core.ops.reference import ReferenceOps
from ernie_core.plugins.hookspecs import OpSetContext

NAMES = ("auto", "reference", "cpu-fused", "apex", "fused")


def why_unusable(name: str, device: torch.device) -> str | None:
    """None if the op set can run on this device, otherwise the reason and what to do."""
    if name == "apex":
        state = detect_apex()
        if not state.usable:
            return state.reason
    if name == "fused" and importlib.util.find_spec("triton") is None:
        return 'Triton is not installed: install it (`pip install triton`), or set ops.use = "auto".'
    if name in ("apex", "fused") and device.type != "cuda":
        return f'its kernels need a CUDA device and this model is on "{device.type}": set ops.use = "auto".'
    return None


def select_ops(name: str, *, device: torch.device | str, dtype: torch.dtype) -> OpSet:
    """One of core's op sets.

    Raises:
        MissingComponent: the name is unknown, or what it needs is missing here.
    """
    device = torch.device(device)
    if name == "auto":
        return _auto(device, dtype)
    if name not in NAMES:
        raise MissingComponent(f'no op set of ernie-core is called "{name}": expected one of {", ".join(NAMES)}')
    reason = why_unusable(name, device)
    if reason is not None:
        raise MissingComponent(f'ops.use = "{name}": {reason}')
    return _build(name, "chosen by name")


def _auto(device: torch.device, dtype: torch.dtype) -> OpSet:
    if device.type == "cpu" and dtype == torch.float32:
        return _build("cpu-fused", "auto: float32 on a CPU")
    if device.type == "cuda":
        reason = why_unusable("fused", device)
        return (
            _build("fused", "auto: CUDA and Triton are here")
            if reason is None
            else _build("reference", f"auto: not `fused`, because {reason}")
        )
    return _build("reference", f"auto: no fused kernels for {str(dtype).removeprefix('torch.')} on {device.type}")


def _build(name: str, reason: str) -> OpSet:
    if name == "reference":
        return ReferenceOps(reason)
    if name == "cpu-fused":
        from ernie_core.ops.cpu_fused import CpuFusedOps

        return CpuFusedOps(reason)
    if name == "apex":
        from ernie_core.ops.apex import ApexOps

        return ApexOps(reason)
    from ernie_core.ops.fused import FusedOps

    return FusedOps(reason)


def build_auto(config: Config, context: OpSetContext) -> OpSet:
    return select_ops("auto", device=context.device, dtype=context.dtype)


def build_reference(config: Config, context: OpSetContext) -> OpSet:
    return select_ops("reference", device=context.device, dtype=context.dtype)


def build_cpu_fused(config: Config, context: OpSetContext) -> OpSet:
    return select_ops("cpu-fused", device=context.device, dtype=context.dtype)


def build_apex(config: Config, context: OpSetContext) -> OpSet:
    return select_ops("apex", device=context.device, dtype=context.dtype)


def build_fused(config: Config, context: OpSetContext) -> OpSet:
    return select_ops("fused", device=context.device, dtype=context.dtype)
