"""Every op set that can run here equals ``reference``, forwards and backwards. The contract is the one third parties subclass."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from ernie_core.ops.cpu_fused import CpuFusedOps
from ernie_core.ops.onednn import ROWS, SMALLEST, onednn_usable, padded_rows
from ernie_core.ops.reference import ReferenceOps
from ernie_core.ops.select import select_ops
from ernie_core.testing.contracts import OpSetContract

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class TestCpuFused(OpSetContract):
    entry = "cpu-fused"


@pytest.mark.gpu
@needs_cuda
class TestFused(OpSetContract):
    entry = "fused"
    device = "cuda"


@pytest.mark.gpu
@needs_cuda
class TestApex(OpSetContract):
    entry = "apex"
    device = "cuda"

    @pytest.fixture(autouse=True)
    def _usable(self):
        from ernie_core.ops.apex_detect import detect_apex

        if not detect_apex().usable:
            pytest.skip(detect_apex().reason)


def second_derivative(ops, call):
    x = torch.randn(1, 2 * SMALLEST, 48, generator=torch.Generator().manual_seed(0)).requires_grad_()
    (slope,) = torch.autograd.grad(call(ops, x).pow(3).sum(), x, create_graph=True)
    slope.pow(2).sum().backward()
    return x.grad


@pytest.mark.parametrize(
    "call",
    [
        lambda ops, x: ops.linear(x, torch.linspace(-1, 1, 96).view(2, 48)),
        lambda ops, x: ops.rms_norm_modulate(x, torch.ones(48), torch.zeros(1, 1, 48), torch.zeros(1, 1, 48), eps=1e-6),
        lambda ops, x: ops.qk_norm_rope(x, torch.ones(8), torch.ones(8), torch.ones(2, 1, 2 * SMALLEST, 1, 8), heads=2, eps=1e-6)[0],
        lambda ops, x: ops.geglu(x),
    ],
    ids=["linear", "rms_norm_modulate", "qk_norm_rope", "geglu"],
)
def test_hand_written_gradients_refuse_to_be_differentiated_again(call):
    """They hold no graph of their own, so a second derivative (a gradient penalty) would silently lack terms. ``reference`` has it."""
    assert second_derivative(ReferenceOps(), call).abs().sum() > 0
    with pytest.raises(RuntimeError, match="once_differentiable"):
        second_derivative(CpuFusedOps(), call)


@pytest.mark.parametrize("rows", [(SMALLEST,), (3, SMALLEST), (7, 83)], ids=str)
@pytest.mark.parametrize(("width", "out"), [(24, 40), (40, 24), (32, 32)])
def test_the_matrix_products_equal_torchs(rows, width, out):
    draw = torch.Generator().manual_seed(0)
    x, weight, g = (torch.randn(*shape, generator=draw) for shape in ((*rows, width), (out, width), (*rows, out)))
    results = []
    for ops in (CpuFusedOps(), ReferenceOps()):
        leaves = [x.clone().requires_grad_(), weight.clone().requires_grad_()]
        y = ops.linear(*leaves)
        (y * g).sum().backward()
        results.append([y.detach(), *(leaf.grad for leaf in leaves)])
    for one, two in zip(*results, strict=True):
        assert one.shape == two.shape
        assert one.is_contiguous()
        assert (one - two).norm() <= 1e-6 * two.norm()


def test_a_frozen_weight_gets_no_gradient_and_costs_none():
    x, weight = torch.randn(SMALLEST, 8, requires_grad=True), torch.randn(4, 8)
    CpuFusedOps().linear(x, weight).sum().backward()
    assert weight.grad is None
    assert torch.allclose(x.grad, weight.sum(0).expand_as(x), atol=1e-5)


def test_rows_are_padded_with_zeros_and_only_when_needed():
    whole, odd = torch.randn(2 * ROWS, 3), torch.randn(ROWS + 1, 3)
    assert padded_rows(whole).data_ptr() == whole.data_ptr()
    assert padded_rows(odd).shape == (2 * ROWS, 3)
    assert torch.equal(padded_rows(odd)[: ROWS + 1], odd)
    assert not padded_rows(odd)[ROWS + 1 :].any()


def test_the_op_set_says_which_matrix_products_it_uses():
    ops = select_ops("auto", device="cpu", dtype=torch.float32)
    assert ops.name == "cpu-fused"
    assert ops.reason.endswith("matrix products by oneDNN" if onednn_usable() else "matrix products by torch.mm")


INTERPRETED = """
import torch
from ernie_core.ops.fused import FusedOps
from ernie_core.testing.contracts import OpSetContract

class Interpreted(OpSetContract):
    entry = "fused"
    batch, tokens, heads, head_size, ffn = 2, 34, 3, 12, 24
    def ops(self, dtype):
        return FusedOps("in Triton's interpreter")

contract = Interpreted()
for name in ("rms_norm_modulate", "qk_norm_rope", "geglu", "gated_residual"):
    getattr(contract, f"test_{name}")()
    print("same numbers:", name)
"""


FAR_APART = """
import torch
from ernie_core.ops import triton_kernels as kernels

WIDTH, TOKENS, APART = 4, 3, 2**30
sparse = torch.empty(2**32 + 2 * WIDTH, dtype=torch.int8)  # address space; only the pages that are touched take memory
sparse[:WIDTH] = 0  # where a 32-bit product would wrap around to
rows = sparse[2**31:].as_strided((TOKENS, WIDTH), (APART, 1))
rows.copy_(torch.tensor([1, 2, 3])[:, None])
ones = torch.ones(TOKENS, WIDTH)
sizes = {"WIDTH": WIDTH, "BLOCK": WIDTH, "RUN": 32, "PER_TOKEN": True}

dy, dgate = torch.empty(TOKENS, WIDTH), torch.empty(TOKENS, WIDTH)
kernels.gated_residual_backward[(1, 1)](ones, ones, rows, dy, dgate, TOKENS, 0, APART, **sizes)
assert dy[:, 0].tolist() == [1, 2, 3], dy

x = torch.tensor([1.0, -1.0, 1.0, -1.0]).expand(TOKENS, WIDTH).contiguous()
dx, dshift, dscale, dweight = (torch.empty(TOKENS, WIDTH) for _ in range(4))
kernels.rms_norm_modulate_backward[(1, 1)](
    ones, x, torch.ones(WIDTH), rows, torch.ones(TOKENS), dx, dweight, dshift, dscale, TOKENS, 0, APART, **sizes
)
assert dx[:, 0].tolist() == [2, 3, 4], dx
print("same numbers: far apart")
"""


@pytest.mark.battery
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_the_triton_kernels_give_the_references_numbers_in_the_interpreter():
    assert interpreted(INTERPRETED).count("same numbers:") == 4


@pytest.mark.battery
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_the_triton_kernels_address_modulation_rows_beyond_32_bits():
    """At the released width the modulation of packed samples passes 2**31 elements at 87,382 tokens."""
    assert interpreted(FAR_APART).count("same numbers:") == 1


def interpreted(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
