"""Plain torch with hand-written gradients and few passes over memory, for float32 on a CPU. Same numbers as ``reference`` up to rounding."""

from __future__ import annotations

from ernie_core.ops.reference import ReferenceOps


class CpuFusedOps(ReferenceOps):
    name = "cpu-fused"
