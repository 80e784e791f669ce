"""Core's op sets. Light: no torch."""

from __future__ import annotations

from collections.abc import Iterable

from ernie_core.config.base import Config
from ernie_core.plugins.entry import Entry
from ernie_core.plugins.hookspecs import hookimpl


class OpSetConfig(Config):
    """Core's op sets have no options."""


@hookimpl
def ernie_register_op_sets() -> Iterable[Entry]:
    build = "ernie_core.ops.select:build_"
    yield Entry("auto", "the fastest usable op set for the device and dtype; says which", OpSetConfig, build + "auto")
    yield Entry("reference", "plain torch; defines the numbers and runs everywhere", OpSetConfig, build + "reference")
    yield Entry(
        "cpu-fused", "torch with hand-written gradients and fewer passes over memory; float32 on a CPU", OpSetConfig, build + "cpu_fused"
    )
    yield Entry("apex", "NVIDIA Apex's fused norms and FusedAdam; CUDA", OpSetConfig, build + "apex")
    yield Entry("fused", "Triton kernels; CUDA", OpSetConfig, build + "fused")
