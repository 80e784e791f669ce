"""A DiT block whose attention and feed-forward part run side by side.

Source: Wang and Komatsuzaki 2021 (GPT-J) for parallel layers, Shazeer 2020 (arXiv 2002.05202) for SwiGLU.
"""

import torch
from ernie_core.api import BlockContext
from ernie_core.model import BlockInputs
from torch import Tensor, nn
from torch.nn import functional as F

from ernie_example.plugin import ParallelBlockConfig


class ParallelBlock(nn.Module):
    """x = x + gate_a * Attention(y_a) + gate_m * SwiGLU(y_m), with y = rms(x) * weight * (1 + scale) + shift each under its own modulation.

    Axes: B batch, S tokens (each sample's image tokens, then its text), D width, A heads, K head size, F feed-forward width.
    """

    def __init__(self, width: int, *, heads: int, ffn_width: int, eps: float) -> None:
        super().__init__()
        self.heads, self.eps = heads, eps
        self.norm_D = nn.Parameter(torch.ones(width))
        self.norm_q_K = nn.Parameter(torch.ones(width // heads))
        self.norm_k_K = nn.Parameter(torch.ones(width // heads))
        self.to_qkv = nn.Linear(width, 3 * width, bias=False)
        self.to_out = nn.Linear(width, width, bias=False)
        self.gate_up = nn.Linear(width, 2 * ffn_width, bias=False)
        self.down = nn.Linear(ffn_width, width, bias=False)

    def forward(self, x_BSD: Tensor, inputs: BlockInputs) -> Tensor:
        ops = inputs.ops
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = inputs.modulation
        attended_BSD = self.attention(ops.rms_norm_modulate(x_BSD, self.norm_D, shift_a, scale_a, eps=self.eps), inputs)
        fed_BSD = self.feed_forward(ops.rms_norm_modulate(x_BSD, self.norm_D, shift_m, scale_m, eps=self.eps))
        return ops.gated_residual(ops.gated_residual(x_BSD, attended_BSD, gate_a), fed_BSD, gate_m)

    def attention(self, y_BSD: Tensor, inputs: BlockInputs) -> Tensor:
        """The layout says which tokens belong together: handing it on is all a block needs to do for padded and for packed batches."""
        q_BSAK, k_BSAK, v_BSAK = inputs.ops.qk_norm_rope(
            self.to_qkv(y_BSD), self.norm_q_K, self.norm_k_K, inputs.rope, heads=self.heads, eps=self.eps
        )
        attended_BSD = inputs.ops.attention(
            q_BSAK, k_BSAK, v_BSAK, layout=inputs.layout, mask_B11S=inputs.mask_B11S, offsets=inputs.offsets
        )
        return self.to_out(attended_BSD)

    def feed_forward(self, y_BSD: Tensor) -> Tensor:
        gate_BSF, up_BSF = self.gate_up(y_BSD).chunk(2, dim=-1)
        return self.down(F.silu(gate_BSF) * up_BSF)


def build(config: ParallelBlockConfig, context: BlockContext) -> ParallelBlock:
    ffn_width = max(1, round(config.ffn_factor * context.ffn_hidden_size))
    return ParallelBlock(context.hidden_size, heads=context.num_attention_heads, ffn_width=ffn_width, eps=context.eps)
