"""What an op set offers. ``reference`` defines the numbers; every other op set must equal it (``ernie_core.testing``).

Axes: B batch, S tokens, D width, A heads, K head size, F feed-forward width. ``shift``, ``scale`` and ``gate`` are broadcastable to x_BSD:
[B, 1, D] usually, [1, 1, D] when all samples share one time, [1, S, D] when samples of different times are packed into one row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

    from ernie_core.model.layout import SequenceLayout


@runtime_checkable
class OpSet(Protocol):
    """All tensors of a call share one dtype and device; results have the dtype of their first argument."""

    name: str
    """The name of what actually runs, never "auto"."""
    reason: str
    """Why it was chosen, one line for people. Printed once and kept in the run's manifest."""

    def linear(self, x: Tensor, weight: Tensor) -> Tensor:
        """``x @ weight.T`` over the last axis, without a bias: the blocks' matrix products."""
        ...

    def rms_norm_modulate(self, x_BSD: Tensor, weight_D: Tensor, shift: Tensor, scale: Tensor, *, eps: float) -> Tensor:
        """``x / rms(x) * weight * (1 + scale) + shift``: variance, scale and shift in float32, rounded after the weight and at the end."""
        ...

    def qk_norm_rope(
        self, qkv_BSE: Tensor, norm_q_K: Tensor, norm_k_K: Tensor, rope: Tensor, *, heads: int, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Split [B, S, 3 D] into q, k and v of [B, S, A, K]; RMS-normalise q and k over K, then rotate them.

        ``rope`` is [2, 1 or B, S, 1, K]: cosines and sines in the dtype of ``qkv`` (``model/rope.py``); out = v cos + (-v_hi, v_lo) sin.
        """
        ...

    def attention(
        self, q_BSAK: Tensor, k_BSAK: Tensor, v_BSAK: Tensor, *, layout: SequenceLayout, mask_B11S: Tensor | None, offsets: Tensor | None
    ) -> Tensor:
        """Softmax attention within each sample, scale 1 / sqrt(K), to [B, S, D].

        ``mask_B11S`` (True = attend) is given only when ``layout.needs_mask``; ``offsets`` (int32 [B + 1]) only when ``layout.packed``.
        """
        ...

    def geglu(self, gate_up_BSF: Tensor) -> Tensor:
        """[B, S, 2 F] to [B, S, F]: ``up * gelu(gate)``, gate first; the exact GELU with erf, not the tanh approximation."""
        ...

    def gated_residual(self, x_BSD: Tensor, y_BSD: Tensor, gate: Tensor) -> Tensor:
        """``x + gate * y``: the product in float32, rounded to the dtype of ``y`` before the sum."""
        ...

    def final_norm(self, x_BSD: Tensor, scale: Tensor, shift: Tensor, *, eps: float) -> Tensor:
        """``layer_norm(x) * (1 + scale) + shift`` without affine parameters, all in the dtype of ``x``."""
        ...

    def adamw(
        self,
        param_groups: Iterable[Mapping[str, Any]],
        *,
        learning_rate: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
    ) -> Optimizer:
        """AdamW with decoupled weight decay. ``param_groups`` as for ``torch.optim``; a group may override the values by torch's names."""
        ...
