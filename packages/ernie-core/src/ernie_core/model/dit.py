"""The single-stream diffusion transformer of ERNIE-Image (spec section 1.5), weight-compatible with diffusers' ErnieImageTransformer2DModel.

The mathematics and the state-dict keys are the reference's. What differs is the way there: tokens are batch-first, modulation is broadcast,
angles are computed once per forward, there is no mask unless a batch is padded, samples of different lengths are packed, and nothing is read
back from the device when a layout is given.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ernie_core.model.block import BlockInputs, SharedAdaLNBlock
from ernie_core.model.checkpointing import run_block
from ernie_core.model.config import DiTConfig
from ernie_core.model.layout import SequenceLayout, packed_offsets, padding_mask
from ernie_core.model.rope import rope_table
from ernie_core.ops.opset import OpSet
from ernie_core.ops.reference import ReferenceOps


class ErnieDiT(nn.Module):
    """Velocity of a noisy latent under a prompt.

    Args:
        config: the sizes.
        ops: the op set; default ``reference``. May be changed later: ``model.ops = ...``.
        make_block: builds the block of one layer; where it returns None, and by default, the built-in ``ernie-shared-adaln``.
        seed: of the initial weights. torch's global random state is left as it was. Under ``torch.device("meta")`` nothing is drawn.

    The initial weights are torch's defaults, but adaLN's linear map and the last one are zero: a fresh model returns exactly 0, and the first
    backward pass reaches only ``final_linear``. That is intended; other layers learn from the second or third step on.
    """

    checkpointing: Literal["none", "selective", "full"]

    def __init__(
        self, config: DiTConfig, *, ops: OpSet | None = None, make_block: Callable[[int], nn.Module | None] | None = None, seed: int = 0
    ) -> None:
        super().__init__()
        self.config = config
        self.ops: OpSet = ReferenceOps("the default of ErnieDiT") if ops is None else ops
        self.checkpointing = "none"
        width, patch_values = config.hidden_size, config.patch_size**2
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.x_embedder = PatchEmbed(config.in_channels, width, patch_size=config.patch_size)
            self.text_proj = nn.Linear(config.text_in_dim, width, bias=False) if config.text_in_dim != width else None
            self.time_embedding = TimeEmbedding(width)
            self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
            blocks = [make_block(layer) if make_block else None for layer in range(config.num_layers)]
            self.layers = nn.ModuleList([self._shared_adaln() if block is None else block for block in blocks])
            self.final_norm = FinalNorm(width, eps=config.eps)
            self.final_linear = nn.Linear(width, patch_values * config.out_channels)
        for linear in (self.adaLN_modulation[1], self.final_linear):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self,
        hidden_states_BCHW: Tensor,
        timestep_B: Tensor,
        text_bth_BTE: Tensor,
        text_lens_B: Tensor | None,
        layout: SequenceLayout | None = None,
    ) -> Tensor:
        """The velocity, [B, C, H, W], in the dtype of ``hidden_states``.

        Args:
            hidden_states_BCHW: packed latents; H and W are multiples of the patch size.
            timestep_B: 1000 sigma, any float dtype. Shape [1] means that all samples share it: modulation is then computed once and broadcast.
            text_bth_BTE: prompt embeddings, padded on the right; what lies beyond a sample's length has no influence.
            text_lens_B: real text tokens of each sample, integers. May be None with a layout.
            layout: the same lengths as Python ints. Without it the lengths are read from the device once per call.

        Raises:
            ValueError: shapes that contradict each other.
        """
        layout = self._layout(hidden_states_BCHW, timestep_B, text_bth_BTE, text_lens_B, layout)
        device, dtype = hidden_states_BCHW.device, hidden_states_BCHW.dtype
        if layout.needs_mask and text_lens_B is None:
            text_lens_B = torch.tensor(layout.text_lens, device=device)

        c_BD = self.time_embedding(timestep_B, dtype)
        modulation = self.adaLN_modulation(c_BD)[:, None]
        x_BSD = self._join(self.x_embedder(hidden_states_BCHW), text_bth_BTE, layout)
        if layout.packed and len(modulation) > 1:
            modulation = _spread(modulation, layout)
        rope = rope_table(
            layout,
            text_lens_B=text_lens_B,
            theta=self.config.rope_theta,
            axes_dim=self.config.rope_axes_dim,
            rope_layout=self.config.rope_layout,
            dtype=dtype,
            device=device,
        )
        inputs = BlockInputs(
            modulation.chunk(6, dim=-1),
            rope,
            layout,
            self.ops,
            mask_B11S=padding_mask(layout, text_lens_B) if layout.needs_mask else None,
            offsets=packed_offsets(layout, device) if layout.packed else None,
        )
        for block in self.layers:
            x_BSD = run_block(block, x_BSD, inputs, mode=self.checkpointing if torch.is_grad_enabled() else "none")
        x_BND = self.final_norm(_image_tokens(x_BSD, layout), c_BD, self.ops)
        return self._unpatch(self.final_linear(x_BND), layout)

    def _layout(
        self,
        hidden_states_BCHW: Tensor,
        timestep_B: Tensor,
        text_bth_BTE: Tensor,
        text_lens_B: Tensor | None,
        layout: SequenceLayout | None,
    ) -> SequenceLayout:
        batch, channels, height, width = hidden_states_BCHW.shape
        p = self.config.patch_size
        if channels != self.config.in_channels or height % p or width % p:
            raise ValueError(
                f"hidden_states {tuple(hidden_states_BCHW.shape)}: expected {self.config.in_channels} channels and sides that are multiples of {p}"
            )
        grid = (height // p, width // p)
        if layout is None:
            if text_lens_B is None:
                raise ValueError("give text_lens or a layout")
            layout = SequenceLayout.plan(grid, text_lens_B.tolist())
        if layout.grid != grid or layout.batch != batch:
            raise ValueError(f"layout: grid {layout.grid} and {layout.batch} samples; hidden_states: grid {grid} and {batch} samples")
        if text_bth_BTE.shape[0] != batch or text_bth_BTE.shape[1] < layout.text_width:
            raise ValueError(f"text_bth {tuple(text_bth_BTE.shape)}: expected {batch} samples of at least {layout.text_width} tokens")
        if timestep_B.shape not in ((batch,), (1,)):
            raise ValueError(f"timestep {tuple(timestep_B.shape)}: expected ({batch},), or (1,) when all samples share it")
        return layout

    def _join(self, image_BND: Tensor, text_BTE: Tensor, layout: SequenceLayout) -> Tensor:
        """[B, S, D] with the image first, or [1, S, D] packed in ``layout.order``. Text padding is dropped before it is projected."""
        if not layout.packed:
            return torch.cat([image_BND, self._project(text_BTE[:, : layout.text_width])], dim=1)
        images, texts = image_BND.unbind(0), text_BTE.unbind(0)
        lens = [layout.text_lens[b] for b in layout.order]
        real_text_TD = self._project(torch.cat([texts[b][:n] for b, n in zip(layout.order, lens)]))
        pieces = [piece for b, text_TD in zip(layout.order, real_text_TD.split(lens)) for piece in (images[b], text_TD)]
        return torch.cat(pieces)[None]

    def _project(self, text: Tensor) -> Tensor:
        return text if self.text_proj is None else self.text_proj(text)

    def _unpatch(self, patches_BNP: Tensor, layout: SequenceLayout) -> Tensor:
        """[B, N, p p C] to [B, C, H, W]; within a patch the order is row, column, channel."""
        (rows, columns), p, channels = layout.grid, self.config.patch_size, self.config.out_channels
        patches = patches_BNP.view(layout.batch, rows, columns, p, p, channels)
        return patches.permute(0, 5, 1, 3, 2, 4).reshape(layout.batch, channels, rows * p, columns * p)

    def _shared_adaln(self) -> nn.Module:
        c = self.config
        return SharedAdaLNBlock(c.hidden_size, heads=c.num_attention_heads, ffn_width=c.ffn_hidden_size, eps=c.eps)


class PatchEmbed(nn.Module):
    """One linear map per patch. The weight has the reference's convolution shape; as a matrix product it needs no change of memory layout.

    The product is taken in float32 and rounded once, as a convolution does; a matrix product in half precision may round before the bias too.
    """

    def __init__(self, channels: int, width: int, *, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(channels, width, kernel_size=patch_size, stride=patch_size)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        (batch, channels, height, width), p = x_BCHW.shape, self.patch_size
        patches = x_BCHW.reshape(batch, channels, height // p, p, width // p, p).permute(0, 2, 4, 1, 3, 5)
        patches_BNP = patches.reshape(batch, -1, channels * p * p)
        return F.linear(patches_BNP.float(), self.proj.weight.flatten(1).float(), self.proj.bias.float()).to(x_BCHW.dtype)


class TimeEmbedding(nn.Module):
    """Sinusoid of 1000 sigma in float32 (sine first, frequencies 10000 ** (-j / half)), then a two-layer perceptron in the model's dtype."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(width, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, timestep_B: Tensor, dtype: torch.dtype) -> Tensor:
        half = self.linear_1.in_features // 2
        exponents = -math.log(10000) * torch.arange(half, dtype=torch.float32, device=timestep_B.device) / half
        angles_Bh = timestep_B.float()[:, None] * exponents.exp()
        sinusoid_BD = torch.cat([angles_Bh.sin(), angles_Bh.cos()], dim=-1).to(dtype)
        return self.linear_2(F.silu(self.linear_1(sinusoid_BD)))


class FinalNorm(nn.Module):
    """Modulated layer norm. Unlike the blocks' modulation: no SiLU before the linear map, and scale comes before shift."""

    def __init__(self, width: int, *, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.linear = nn.Linear(width, 2 * width)

    def forward(self, x_BND: Tensor, c_BD: Tensor, ops: OpSet) -> Tensor:
        scale_B1D, shift_B1D = self.linear(c_BD)[:, None].chunk(2, dim=-1)
        return ops.final_norm(x_BND, scale_B1D, shift_B1D, eps=self.eps)


def _spread(modulation_B1M: Tensor, layout: SequenceLayout) -> Tensor:
    """[B, 1, M] per sample to [1, S, M] per packed token. Expanding group by group keeps the gradient a plain, deterministic sum."""
    rows = modulation_B1M.unbind(0)
    pieces = [torch.stack([rows[b] for b in g.samples]).expand(-1, g.seq_len, -1).flatten(0, 1) for g in layout.groups]
    return torch.cat(pieces)[None]


def _image_tokens(x_BSD: Tensor, layout: SequenceLayout) -> Tensor:
    """[B, N, D] in the order of the batch."""
    if not layout.packed:
        return x_BSD[:, : layout.image_tokens]
    sizes = [size for b in layout.order for size in (layout.image_tokens, layout.text_lens[b])]
    images = dict(zip(layout.order, x_BSD[0].split(sizes)[::2]))
    return torch.stack([images[b] for b in range(layout.batch)])
