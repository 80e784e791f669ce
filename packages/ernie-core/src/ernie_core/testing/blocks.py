"""Contracts of what runs inside the transformer: DiT blocks and op sets. Needs torch, no pytest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ernie_core.model.block import BlockInputs
from ernie_core.model.checkpointing import run_block
from ernie_core.model.layout import SequenceLayout, packed_offsets, padding_mask
from ernie_core.model.rope import rope_table
from ernie_core.ops.opset import OpSet
from ernie_core.ops.reference import ReferenceOps
from ernie_core.plugins.hookspecs import BlockContext, OpSetContext
from ernie_core.testing.component import ComponentContract
from ernie_core.testing.pure import normal

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Largest absolute difference in units of the largest expected value."""
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-12))


class BlockContract(ComponentContract):
    """``block(x_BSD, inputs: BlockInputs) -> x_BSD``: image tokens first, then each sample's text; samples never see each other.

    Attributes:
        context: sizes the block is built with.
        tolerance: by dtype, largest relative error; "float32" between ways of computing the same numbers, "bfloat16" against float32.
    """

    registry: ClassVar[str] = "dit_blocks"
    context: ClassVar[BlockContext] = BlockContext(
        hidden_size=64, num_attention_heads=4, ffn_hidden_size=96, eps=1e-6, layer=1, num_layers=3
    )
    tolerance: ClassVar[Mapping[str, float]] = {"float32": 1e-5, "bfloat16": 3e-2}
    grid: ClassVar[tuple[int, int]] = (3, 4)
    text_lens: ClassVar[tuple[int, ...]] = (5, 2, 7, 2)

    def block(self, seed: int = 0) -> nn.Module:
        """A block in float32 with weights drawn from ``seed``; parameters that start at zero are moved off it, so that they take part."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            block = self.build(self.context)
            with torch.no_grad():
                for parameter in block.parameters():
                    parameter.add_(0.05 * torch.randn_like(parameter))
        return block

    def inputs(self, layout: SequenceLayout, *, dtype: torch.dtype = torch.float32) -> BlockInputs:
        """What the model gives a block for this layout: a modulation per sample, rotary table, mask only for padding, offsets only when packed."""
        modulation_B1M = normal(layout.batch, 1, 6 * self.context.hidden_size, seed=7).to(dtype) / 2
        if layout.packed:
            spread = [modulation_B1M[b].expand(layout.image_tokens + layout.text_lens[b], -1) for b in layout.order]
            modulation_B1M = torch.cat(spread)[None]
        head = self.context.hidden_size // self.context.num_attention_heads
        text_lens_B = torch.tensor(layout.text_lens)
        rope = rope_table(
            layout,
            text_lens_B=text_lens_B,
            theta=256.0,
            axes_dim=(head - 2 * (head // 4), head // 4, head // 4),
            rope_layout="ernie",
            dtype=dtype,
            device=torch.device("cpu"),
        )
        return BlockInputs(
            modulation_B1M.chunk(6, dim=-1),
            rope,
            layout,
            ReferenceOps("contract"),
            mask_B11S=padding_mask(layout, text_lens_B) if layout.needs_mask else None,
            offsets=packed_offsets(layout, torch.device("cpu")) if layout.packed else None,
        )

    def equal_lengths(self) -> SequenceLayout:
        return SequenceLayout(self.grid, (4, 4, 4))

    def x(self, layout: SequenceLayout, *, dtype: torch.dtype = torch.float32) -> Tensor:
        """Tokens: [B, S, D], or the same samples' real tokens in one row [1, S, D] when packed."""
        padded_BSD = normal(layout.batch, layout.longest, self.context.hidden_size, seed=3).to(dtype)
        if not layout.packed:
            return padded_BSD
        return torch.cat([padded_BSD[b, : layout.image_tokens + layout.text_lens[b]] for b in layout.order])[None]

    def test_shape_and_dtype_are_kept(self):
        layout = self.equal_lengths()
        for dtype in DTYPES.values():
            x_BSD = self.x(layout, dtype=dtype)
            y_BSD = self.block().to(dtype)(x_BSD, self.inputs(layout, dtype=dtype))
            assert y_BSD.shape == x_BSD.shape
            assert y_BSD.dtype == dtype
            assert torch.isfinite(y_BSD).all()

    def test_two_calls_give_the_same_bits_and_x_stays_as_it_was(self):
        layout, block = self.equal_lengths(), self.block()
        x_BSD, inputs = self.x(layout), self.inputs(layout)
        before = x_BSD.clone()
        assert torch.equal(block(x_BSD, inputs), block(x_BSD, inputs))
        assert torch.equal(x_BSD, before)

    def test_it_draws_no_random_numbers(self):
        layout, block = self.equal_lengths(), self.block().train()
        before = torch.get_rng_state()
        block(self.x(layout), self.inputs(layout))
        assert torch.equal(torch.get_rng_state(), before), "a run could not be repeated: torch's global generator has moved"

    def test_a_sample_does_not_depend_on_its_batch(self):
        layout, block = self.equal_lengths(), self.block()
        x_BSD, inputs = self.x(layout), self.inputs(layout)
        together_BSD = block(x_BSD, inputs)
        for b in range(layout.batch):
            alone = self._alone(block, x_BSD[b : b + 1], inputs, SequenceLayout(self.grid, (layout.text_lens[b],)), b)
            assert relative_error(alone[0], together_BSD[b]) <= self.tolerance["float32"]

    def test_packed_samples_give_what_each_gives_alone(self):
        layout, block = SequenceLayout(self.grid, self.text_lens, packed=True), self.block()
        x_1SD, inputs = self.x(layout), self.inputs(layout)
        sizes = [layout.image_tokens + layout.text_lens[b] for b in layout.order]
        packed = block(x_1SD, inputs)[0].split(sizes)
        padded = self.inputs(SequenceLayout(self.grid, self.text_lens))
        for b, x_SD, y_SD in zip(layout.order, x_1SD[0].split(sizes), packed, strict=True):
            alone = self._alone(block, x_SD[None], padded, SequenceLayout(self.grid, (layout.text_lens[b],)), b)
            assert relative_error(y_SD, alone[0]) <= self.tolerance["float32"], (
                f"sample {b} of the packed row differs from the same sample alone"
            )

    def test_padding_has_no_influence_on_real_tokens(self):
        layout, block = SequenceLayout(self.grid, self.text_lens), self.block()
        x_BSD, inputs = self.x(layout), self.inputs(layout)
        other_BSD = x_BSD.clone()
        for b, length in enumerate(layout.text_lens):
            other_BSD[b, layout.image_tokens + length :] = 100.0
        one_BSD, two_BSD = block(x_BSD, inputs), block(other_BSD, inputs)
        for b, length in enumerate(layout.text_lens):
            real = slice(0, layout.image_tokens + length)
            assert relative_error(two_BSD[b, real], one_BSD[b, real]) <= self.tolerance["float32"]

    def test_modulation_shared_by_all_samples_may_have_batch_one(self):
        layout, block = self.equal_lengths(), self.block()
        inputs = self.inputs(layout)
        shared = tuple(m[:1] for m in inputs.modulation)
        expanded = tuple(m.expand(layout.batch, -1, -1) for m in shared)
        x_BSD = self.x(layout)
        one, two = (block(x_BSD, _replaced(inputs, modulation=m)) for m in (shared, expanded))
        assert relative_error(one, two) <= self.tolerance["float32"]

    def test_gradient_reaches_every_parameter_the_tokens_and_the_modulation(self):
        layout, block = self.equal_lengths(), self.block()
        x_BSD, inputs = self.x(layout).requires_grad_(), self.inputs(layout)
        for m in inputs.modulation:
            m.requires_grad_()
        self._scalar(block(x_BSD, inputs)).backward()
        named = {"x": x_BSD, **dict(block.named_parameters())}
        assert len(named) > 1, "a block without parameters cannot learn"
        for name, tensor in named.items():
            assert tensor.grad is not None, f"no gradient reaches {name}"
            assert torch.isfinite(tensor.grad).all(), f"the gradient of {name} is not finite"
            assert tensor.grad.abs().max() > 0, f"the gradient of {name} is zero"
        assert any(m.grad is not None and m.grad.abs().max() > 0 for m in inputs.modulation), "the block ignores the time"

    def test_checkpointing_changes_neither_result_nor_gradients(self):
        layout, block = self.equal_lengths(), self.block()
        expected = self._with_gradients(block, layout, mode="none")
        for mode in ("full", "selective"):
            for name, tensor in self._with_gradients(block, layout, mode=mode).items():
                assert relative_error(tensor, expected[name]) <= self.tolerance["float32"], f"{name} with checkpointing = {mode!r}"

    def test_bfloat16_is_close_to_float32(self):
        layout = self.equal_lengths()
        expected = self.block()(self.x(layout), self.inputs(layout))
        found = self.block().bfloat16()(self.x(layout, dtype=torch.bfloat16), self.inputs(layout, dtype=torch.bfloat16))
        assert relative_error(found, expected) <= self.tolerance["bfloat16"]

    def test_its_state_dict_is_all_there_is(self):
        layout, one, two = self.equal_lengths(), self.block(seed=0), self.block(seed=1)
        x_BSD, inputs = self.x(layout), self.inputs(layout)
        assert not torch.equal(one(x_BSD, inputs), two(x_BSD, inputs))
        two.load_state_dict(one.state_dict())
        assert torch.equal(one(x_BSD, inputs), two(x_BSD, inputs))

    def _alone(self, block: nn.Module, x_1SD: Tensor, inputs: BlockInputs, layout: SequenceLayout, b: int) -> Tensor:
        modulation = tuple(m[b : b + 1] for m in inputs.modulation)
        return block(x_1SD, _replaced(self.inputs(layout), modulation=modulation))

    def _scalar(self, y_BSD: Tensor) -> Tensor:
        return (y_BSD * normal(*y_BSD.shape, seed=11)).sum()

    def _with_gradients(self, block: nn.Module, layout: SequenceLayout, *, mode: str) -> dict[str, Tensor]:
        block.zero_grad()
        x_BSD = self.x(layout).requires_grad_()
        y_BSD = run_block(block, x_BSD, self.inputs(layout), mode=mode)
        self._scalar(y_BSD).backward()
        return {"y": y_BSD.detach(), "x.grad": x_BSD.grad} | {f"{name}.grad": p.grad.clone() for name, p in block.named_parameters()}


def _replaced(inputs: BlockInputs, *, modulation: tuple[Tensor, ...]) -> BlockInputs:
    return BlockInputs(modulation, inputs.rope, inputs.layout, inputs.ops, inputs.mask_B11S, inputs.offsets)


class OpSetContract(ComponentContract):
    """Every op equals ``reference``, values and gradients, on the device and in the dtypes named.

    Attributes:
        device, dtypes: where to compare; an op set that needs CUDA sets ``device = "cuda"``.
        tolerance: by dtype, largest relative error.
    """

    registry: ClassVar[str] = "op_sets"
    device: ClassVar[str] = "cpu"
    dtypes: ClassVar[tuple[str, ...]] = ("float32", "bfloat16")
    tolerance: ClassVar[Mapping[str, float]] = {"float32": 1e-5, "bfloat16": 2e-2}

    batch, tokens, heads, head_size, ffn = 3, 10, 2, 16, 24

    def ops(self, dtype: torch.dtype) -> OpSet:
        return self.build(OpSetContext(device=torch.device(self.device), dtype=dtype))

    def tensor(self, *shape: int, seed: int) -> Tensor:
        return normal(*shape, seed=seed).to(self.device)

    def compare(self, call: Callable[[OpSet, list[Tensor]], Any], *tensors: Tensor) -> None:
        """Run ``call(ops, tensors)`` with the op set and with ``reference``, forwards and backwards, in every dtype."""
        for name in self.dtypes:
            dtype = DTYPES[name]
            found, expected = (_value_and_gradients(call, ops, tensors, dtype) for ops in (self.ops(dtype), ReferenceOps("contract")))
            for (what, one), (_, two) in zip(found, expected, strict=True):
                assert one.dtype == two.dtype, f"{what} is {one.dtype}, expected {two.dtype}"
                assert one.shape == two.shape, f"{what} has shape {tuple(one.shape)}, expected {tuple(two.shape)}"
                error = relative_error(one, two)
                assert error <= self.tolerance[name], f"{name}: {what} differs from reference by {error:.1e} of its scale"

    @property
    def width(self) -> int:
        return self.heads * self.head_size

    def test_it_says_what_runs_and_why(self):
        ops = self.ops(DTYPES[self.dtypes[0]])
        assert ops.name
        assert ops.name != "auto"
        assert ops.reason

    def test_linear(self):
        weight = self.tensor(self.ffn, self.width, seed=2)
        for rows in ((self.batch, self.tokens), (self.batch, 100)):  # few rows and many: an op set may choose another kernel
            self.compare(lambda ops, t: ops.linear(*t), self.tensor(*rows, self.width, seed=1), weight)

    def test_rms_norm_modulate(self):
        x = self.tensor(self.batch, self.tokens, self.width, seed=1)
        weight = 1 + self.tensor(self.width, seed=2) / 4
        for rows in ((self.batch, 1), (1, 1), (1, self.tokens)):
            shift, scale = (self.tensor(*rows, self.width, seed=seed) / 2 for seed in (3, 4))
            self.compare(lambda ops, t: ops.rms_norm_modulate(*t, eps=1e-6), x, weight, shift, scale)

    def test_qk_norm_rope(self):
        qkv = self.tensor(self.batch, self.tokens, 3 * self.width, seed=1)
        norm_q, norm_k = (1 + self.tensor(self.head_size, seed=seed) / 4 for seed in (2, 3))
        for batch in (1, self.batch):
            angles = self.tensor(batch, self.tokens, 1, self.head_size, seed=4)
            rope = torch.stack([angles.cos(), angles.sin()])
            self.compare(
                lambda ops, t, rope=rope: torch.stack(ops.qk_norm_rope(*t, rope.to(t[0].dtype), heads=self.heads, eps=1e-6)),
                qkv,
                norm_q,
                norm_k,
            )

    def test_attention(self):
        text_lens = (4, 1, 6)
        for layout in (
            SequenceLayout((2, 3), (4, 4, 4)),
            SequenceLayout((2, 3), text_lens),
            SequenceLayout((2, 3), text_lens, packed=True),
        ):
            rows, tokens = (1, layout.real_tokens) if layout.packed else (layout.batch, layout.longest)
            q, k, v = (self.tensor(rows, tokens, self.heads, self.head_size, seed=seed) for seed in (1, 2, 3))
            mask = padding_mask(layout, torch.tensor(text_lens, device=self.device)) if layout.needs_mask else None
            offsets = packed_offsets(layout, torch.device(self.device)) if layout.packed else None
            self.compare(
                lambda ops, t, layout=layout, mask=mask, offsets=offsets: ops.attention(*t, layout=layout, mask_B11S=mask, offsets=offsets),
                q,
                k,
                v,
            )

    def test_geglu(self):
        self.compare(lambda ops, t: ops.geglu(*t), 2 * self.tensor(self.batch, self.tokens, 2 * self.ffn, seed=1))

    def test_gated_residual(self):
        x, y = (self.tensor(self.batch, self.tokens, self.width, seed=seed) for seed in (1, 2))
        for rows in ((self.batch, 1), (1, 1), (1, self.tokens)):
            self.compare(lambda ops, t: ops.gated_residual(*t), x, y, self.tensor(*rows, self.width, seed=3))

    def test_final_norm(self):
        x = self.tensor(self.batch, self.tokens, self.width, seed=1)
        scale, shift = (self.tensor(self.batch, 1, self.width, seed=seed) / 2 for seed in (2, 3))
        self.compare(lambda ops, t: ops.final_norm(*t, eps=1e-6), x, scale, shift)

    def test_adamw_takes_the_steps_of_torchs(self):
        results = []
        for ops in (self.ops(torch.float32), ReferenceOps("contract")):
            parameters = [nn.Parameter(self.tensor(5, 7, seed=1)), nn.Parameter(self.tensor(7, seed=2))]
            groups = [{"params": parameters[:1]}, {"params": parameters[1:], "weight_decay": 0.0}]
            optimizer = ops.adamw(groups, learning_rate=1e-2, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1)
            for step in range(5):
                for i, parameter in enumerate(parameters):
                    parameter.grad = self.tensor(*parameter.shape, seed=10 * step + i)
                optimizer.step()
            results.append([p.detach() for p in parameters])
        for one, two in zip(*results, strict=True):
            assert relative_error(one, two) <= self.tolerance["float32"]


def _value_and_gradients(
    call: Callable[[OpSet, list[Tensor]], Tensor], ops: OpSet, tensors: tuple[Tensor, ...], dtype: torch.dtype
) -> list[tuple[str, Tensor]]:
    inputs = [t.to(dtype).detach().clone().requires_grad_() for t in tensors]
    value = call(ops, inputs)
    (value.float() * normal(*value.shape, seed=99).to(value.device)).sum().backward()
    gradients = [t.grad for t in inputs if t.grad is not None]
    return [("the result", value.detach()), *((f"the gradient of argument {i}", g) for i, g in enumerate(gradients))]
