"""How fast a run is: pictures per second, and the share of the device's peak where that is known (MFU)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

# Dense bfloat16 tensor-core peaks in FLOP/s, from NVIDIA's data sheets (without sparsity).
PEAK_FLOPS = {"A100": 312e12, "H100": 989e12, "H200": 989e12, "B200": 2250e12, "GB200": 2500e12, "L40S": 362e12, "RTX 4090": 165e12}


def peak_flops(device_name: str) -> float | None:
    """The peak of a device by name, the longest match winning; None where it is not known, such as any CPU."""
    matches = [name for name in PEAK_FLOPS if name in device_name]
    return PEAK_FLOPS[max(matches, key=len)] if matches else None


def train_flops(parameters: int, *, tokens: int, layers: int, width: int) -> float:
    """FLOPs of forward and backward of one picture: ``6 P S`` for the matrix products and ``12 L S^2 D`` for attention, S = image and text tokens.

    Recomputation by gradient checkpointing is not counted (MFU, not hardware utilisation).
    Source: Kaplan et al. 2020 (6 P per token); attention counts QK^T and AV, forward and twice backward.
    """
    return 6.0 * parameters * tokens + 12.0 * layers * tokens**2 * width


class Meter:
    """Pictures per second of training proper: time inside ``paused`` (validation, samples, checkpoints) does not count."""

    def __init__(self) -> None:
        self._pictures, self._paused_s, self._since = 0, 0.0, time.perf_counter()

    def add(self, pictures: int) -> None:
        self._pictures += pictures

    @contextmanager
    def paused(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self._paused_s += time.perf_counter() - began

    def read(self, peak: float | None, world_size: int, flops_per_picture: float | None) -> dict[str, float]:
        """``images_per_s`` and, where the peak and the work are known, ``mfu``, since the last reading."""
        seconds = max(time.perf_counter() - self._since - self._paused_s, 1e-9)
        reading = {"images_per_s": self._pictures / seconds}
        if peak is not None and flops_per_picture is not None:
            reading["mfu"] = self._pictures * flops_per_picture / seconds / (peak * world_size)
        self._pictures, self._paused_s, self._since = 0, 0.0, time.perf_counter()
        return reading
