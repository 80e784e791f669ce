"""Which op set is chosen, and why another cannot be."""

from __future__ import annotations

import pytest
import torch

from ernie_core.errors import MissingComponent
from ernie_core.ops import select
from ernie_core.ops.apex_detect import ApexState
from ernie_core.ops.opset import OpSet
from ernie_core.ops.select import select_ops, why_unusable


@pytest.mark.parametrize(
    ("dtype", "name", "reason"),
    [(torch.float32, "cpu-fused", "auto: float32 on a CPU"), (torch.bfloat16, "reference", "auto: no fused kernels for bfloat16 on cpu")],
)
def test_auto_on_a_cpu(dtype, name, reason):
    ops = select_ops("auto", device="cpu", dtype=dtype)
    assert isinstance(ops, OpSet)
    assert ops.name == name
    assert ops.reason.startswith(reason)


def test_auto_on_cuda_says_why_not_triton(monkeypatch):
    monkeypatch.setattr(select.importlib.util, "find_spec", lambda name: None)
    ops = select_ops("auto", device="cuda", dtype=torch.bfloat16)
    assert ops.name == "reference"
    assert "not `fused`, because Triton is not installed" in ops.reason


@pytest.mark.parametrize("name", ["fused", "apex"])
def test_asking_for_cuda_kernels_on_a_cpu_is_an_error(name, monkeypatch):
    monkeypatch.setattr(select, "detect_apex", lambda: ApexState(True, "built", "NVIDIA Apex"))
    monkeypatch.setattr(select.importlib.util, "find_spec", lambda name: object())
    with pytest.raises(MissingComponent, match=f'ops.use = "{name}": its kernels need a CUDA device and this model is on "cpu"'):
        select_ops(name, device="cpu", dtype=torch.float32)


def test_asking_for_an_unusable_apex_repeats_what_was_found(monkeypatch):
    state = ApexState(False, "impostor", "the installed `apex` 0.9.10 is an unrelated package (a Pyramid toolkit).")
    monkeypatch.setattr(select, "detect_apex", lambda: state)
    assert why_unusable("apex", torch.device("cuda")) == state.reason
    with pytest.raises(MissingComponent, match=r'ops\.use = "apex": the installed `apex` 0\.9\.10 is an unrelated package'):
        select_ops("apex", device="cuda", dtype=torch.bfloat16)


def test_asking_for_fused_without_triton(monkeypatch):
    monkeypatch.setattr(select.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingComponent, match=r'ops\.use = "fused": Triton is not installed'):
        select_ops("fused", device="cuda", dtype=torch.bfloat16)


def test_an_unknown_name():
    with pytest.raises(MissingComponent, match='no op set of ernie-core is called "quick": expected one of auto, reference'):
        select_ops("quick", device="cpu", dtype=torch.float32)


def test_without_onednn_the_products_are_torchs(monkeypatch):
    from ernie_core.ops import cpu_fused

    monkeypatch.setattr(cpu_fused, "onednn_usable", lambda: False)
    ops = cpu_fused.CpuFusedOps("here")
    assert ops.reason == "here; matrix products by torch.mm"
    x, weight = torch.randn(300, 8), torch.randn(4, 8)
    assert torch.equal(ops.linear(x, weight), x @ weight.t())
