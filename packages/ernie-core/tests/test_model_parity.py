"""Our transformer against diffusers' in float32: outputs, gradients, keys; and proof that the comparison would catch each classic mistake."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import msgspec
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ernie_core.model import rope
from ernie_core.model.config import RELEASE, DiTConfig
from ernie_core.model.dit import ErnieDiT, TimeEmbedding
from ernie_core.model.fusion import fusion_of
from ernie_core.model.layout import SequenceLayout
from ernie_core.ops.cpu_fused import CpuFusedOps
from ernie_core.ops.reference import ReferenceOps

diffusers = pytest.importorskip("diffusers", reason="parity is measured against diffusers' transformer")

OUTPUT_TOLERANCE = 1e-5  # of the largest output
GRADIENT_TOLERANCE = 1e-4  # of the gradient's norm, for every parameter


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Models this small are slower on several threads than on one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Case:
    heads: int
    head_dim: int
    layers: int
    ffn: int
    text_dim: int
    grid: tuple[int, int]
    text_lens: tuple[int, ...]
    extra_padding: int = 0
    patch: int = 1
    channels: int = 6
    seed: int = 0

    @property
    def config(self) -> DiTConfig:
        spatial = self.head_dim * 3 // 8 // 2 * 2
        return DiTConfig(
            hidden_size=self.heads * self.head_dim,
            num_attention_heads=self.heads,
            num_layers=self.layers,
            ffn_hidden_size=self.ffn,
            in_channels=self.channels,
            out_channels=self.channels,
            text_in_dim=self.text_dim,
            rope_axes_dim=(self.head_dim - 2 * spatial, spatial, spatial),
            patch_size=self.patch,
        )

    def __str__(self) -> str:
        lens = ",".join(map(str, self.text_lens))
        return f"{self.heads}x{self.head_dim}-L{self.layers}-p{self.patch}-{self.grid[0]}x{self.grid[1]}-T{lens}+{self.extra_padding}"


def random_cases(count: int) -> list[Case]:
    pick = random.Random(20250525)
    cases = []
    for seed in range(count):
        heads, head_dim = pick.choice([1, 2, 3, 4]), pick.choice([8, 16, 24, 32, 64])
        batch = pick.choice([1, 2, 3, 5])
        lens = [pick.randint(1, 12) for _ in range(batch)]
        cases.append(
            Case(
                heads,
                head_dim,
                layers=pick.choice([1, 2, 3]),
                ffn=pick.choice([24, 56, 96]),
                text_dim=pick.choice([20, 40, heads * head_dim]),
                grid=(pick.randint(1, 9), pick.randint(1, 9)),
                text_lens=tuple(lens if pick.random() < 0.7 else lens[:1] * batch),
                extra_padding=pick.choice([0, 0, 3]),
                patch=pick.choice([1, 1, 1, 2]),
                seed=seed,
            )
        )
    return cases


CASES = [
    *random_cases(22),
    Case(4, 32, 3, 96, 40, (7, 5), (700, 3)),
    Case(2, 16, 2, 48, 40, (5, 3), (1, 1, 1), extra_padding=4),
    Case(2, 16, 2, 48, 40, (5, 3), (1, 1, 16, 16)),
    Case(2, 16, 2, 48, 40, (3, 5), (0, 4)),
    Case(2, 128, 2, 48, 40, (3, 5), (9, 2)),
    Case(4, 64, 3, 512, 40, (16, 16), (7, 5), seed=9),
]


@dataclass
class Batch:
    latents: Tensor
    timestep: Tensor
    text: Tensor
    lens: Tensor
    weights: Tensor  # of the scalar that is differentiated


def make_batch(case: Case, dtype: torch.dtype = torch.float32) -> Batch:
    draw = torch.Generator().manual_seed(case.seed + 1)
    batch, width = len(case.text_lens), max(case.text_lens) + case.extra_padding
    sides = (case.grid[0] * case.patch, case.grid[1] * case.patch)
    latents = torch.randn(batch, case.channels, *sides, generator=draw)
    text = torch.randn(batch, width, case.text_dim, generator=draw)
    timestep = 1000 * torch.rand(batch, generator=draw)
    return Batch(latents.to(dtype), timestep, text.to(dtype), torch.tensor(case.text_lens), torch.randn(latents.shape, generator=draw))


def make_reference(case: Case) -> nn.Module:
    """diffusers' transformer with random weights everywhere: its own initial weights return 0, and every comparison would be 0 == 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(case.seed)
        settings = {name: value for name, value in case.config.to_diffusers().items() if not name.startswith("_")}
        model = diffusers.ErnieImageTransformer2DModel(**settings)
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=(parameter.numel() / parameter.shape[0]) ** -0.5)
            elif name.endswith("bias"):
                nn.init.normal_(parameter, std=0.7)  # gates, scales and shifts of order one: every block counts
            else:
                nn.init.normal_(parameter, mean=1.0, std=0.2)  # weights of norms
    return model


def make_ours(case: Case, reference: nn.Module, ops: ReferenceOps | None = None) -> ErnieDiT:
    model = ErnieDiT(case.config, ops=ops)
    model.load_state_dict(reference.state_dict())
    return model


def reference_result(case: Case, model: nn.Module) -> tuple[Tensor, dict[str, Tensor]]:
    batch = make_batch(case)
    out = model(batch.latents, batch.timestep, batch.text, batch.lens, return_dict=False)[0]
    model.zero_grad()
    (out * batch.weights).sum().backward()
    return out.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}


def errors(case: Case, model: ErnieDiT, expected: tuple[Tensor, dict[str, Tensor]], layout: SequenceLayout | None) -> tuple[float, float]:
    """Largest output error in units of the largest output, and the worst parameter's gradient error in units of that gradient's norm."""
    batch = make_batch(case)
    out = model(batch.latents, batch.timestep, batch.text, batch.lens, layout)
    model.zero_grad()
    (out * batch.weights).sum().backward()
    gradients = fusion_of(model).split({name: p.grad for name, p in model.named_parameters()})
    expected_out, expected_gradients = expected
    assert gradients.keys() == expected_gradients.keys()
    worst = max(float((gradients[n] - g).norm() / g.norm().clamp_min(1e-9)) for n, g in expected_gradients.items())
    return float((out.detach() - expected_out).abs().max() / expected_out.abs().max()), worst


@pytest.mark.parametrize("case", CASES, ids=str)
def test_outputs_and_gradients_equal_the_references(case):
    reference = make_reference(case)
    expected = reference_result(case, reference)
    assert expected[0].std() > 0.1
    layouts = [None, SequenceLayout.plan(case.grid, case.text_lens), SequenceLayout(case.grid, case.text_lens, packed=False)]
    for ops, tried in ((ReferenceOps(), layouts), (CpuFusedOps(), layouts[1:])):
        model = make_ours(case, reference, ops)
        for layout in tried:
            output_error, gradient_error = errors(case, model, expected, layout)
            assert output_error <= OUTPUT_TOLERANCE, f"{ops.name}, {layout}"
            assert gradient_error <= GRADIENT_TOLERANCE, f"{ops.name}, {layout}"


def test_there_are_at_least_24_configurations():
    assert len({str(case) for case in CASES}) >= 24


def test_state_dict_has_the_references_keys_shapes_and_order_and_nothing_of_ours_is_theirs():
    case = CASES[0]
    reference = make_reference(case)
    ours = make_ours(case, reference)
    assert [(n, t.shape) for n, t in ours.state_dict().items()] == [(n, t.shape) for n, t in reference.state_dict().items()]
    assert all(torch.equal(t, reference.state_dict()[n]) for n, t in ours.state_dict().items())
    assert not [type(m) for m in ours.modules() if type(m).__module__.startswith("diffusers")]
    reference.load_state_dict(ours.state_dict())


def test_the_released_model_has_8_033_490_048_parameters():
    with torch.device("meta"):
        model = ErnieDiT(RELEASE)
    assert sum(p.numel() for p in model.parameters()) == 8_033_490_048
    assert sum(p.numel() for p in model.layers[0].parameters()) == 218_112_256


def test_bfloat16_error_is_no_larger_than_the_references_own():
    """Bit for bit the reference's where the sequence is the same; with padding dropped, attention sums in another order, so the errors are pooled."""
    ours_squared = theirs_squared = 0.0
    identical = 0
    for case in (CASES[24], CASES[27], *random_cases(12)):
        reference = make_reference(case)
        ours = make_ours(case, reference)
        exact, batch = reference_result(case, reference)[0], make_batch(case, torch.bfloat16)
        with torch.no_grad():
            theirs = reference.bfloat16()(batch.latents, batch.timestep, batch.text, batch.lens, return_dict=False)[0]
            found = ours.bfloat16()(batch.latents, batch.timestep, batch.text, batch.lens)
        assert found.dtype == torch.bfloat16
        identical += torch.equal(found, theirs)
        ours_squared += float(((found.float() - exact).norm() / exact.norm()) ** 2)
        theirs_squared += float(((theirs.float() - exact).norm() / exact.norm()) ** 2)
    assert identical >= 4
    assert ours_squared <= 1.02 * theirs_squared, f"squared errors: ours {ours_squared:.3e}, the reference's {theirs_squared:.3e}"


MIXED = Case(2, 32, 2, 64, 40, (6, 5), (9, 3, 1), extra_padding=2, seed=3)


def test_text_beyond_a_samples_length_has_no_influence():
    reference = make_reference(MIXED)
    model, batch = make_ours(MIXED, reference), make_batch(MIXED)
    other = batch.text.clone()
    for b, n in enumerate(MIXED.text_lens):
        other[b, n:] = 1e3
    for packed in (True, False):
        layout = SequenceLayout(MIXED.grid, MIXED.text_lens, packed=packed)
        one, two = (model(batch.latents, batch.timestep, text, batch.lens, layout) for text in (batch.text, other))
        assert (one - two).abs().max() <= 1e-6 * one.abs().max()


def test_one_timestep_for_all_equals_the_same_timestep_repeated():
    reference = make_reference(MIXED)
    model, batch = make_ours(MIXED, reference), make_batch(MIXED)
    for packed in (True, False):
        layout = SequenceLayout(MIXED.grid, MIXED.text_lens, packed=packed)
        shared = model(batch.latents, torch.tensor([321.5]), batch.text, None, layout)
        repeated = model(batch.latents, torch.full((3,), 321.5), batch.text, None, layout)
        assert (shared - repeated).abs().max() <= 1e-6 * repeated.abs().max()


class TanhGelu(ReferenceOps):
    def geglu(self, gate_up_BSF: Tensor) -> Tensor:
        gate, up = gate_up_BSF.chunk(2, dim=-1)
        return up * F.gelu(gate, approximate="tanh")


class UpFirst(ReferenceOps):
    def geglu(self, gate_up_BSF: Tensor) -> Tensor:
        up, gate = gate_up_BSF.chunk(2, dim=-1)
        return up * F.gelu(gate)


class ScaleBeforeShift(ReferenceOps):
    def rms_norm_modulate(self, x_BSD: Tensor, weight_D: Tensor, shift: Tensor, scale: Tensor, *, eps: float) -> Tensor:
        return super().rms_norm_modulate(x_BSD, weight_D, scale, shift, eps=eps)


class FinalShiftBeforeScale(ReferenceOps):
    def final_norm(self, x_BSD: Tensor, scale: Tensor, shift: Tensor, *, eps: float) -> Tensor:
        return super().final_norm(x_BSD, shift, scale, eps=eps)


class NoMask(ReferenceOps):
    def attention(self, q_BSAK: Tensor, k_BSAK: Tensor, v_BSAK: Tensor, *, layout, mask_B11S, offsets) -> Tensor:
        return super().attention(q_BSAK, k_BSAK, v_BSAK, layout=layout, mask_B11S=None, offsets=offsets)


class SiluFirst(nn.Module):
    """Wraps the final norm: an activation before its linear map, as in other transformers."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x_BND: Tensor, c_BD: Tensor, ops: ReferenceOps) -> Tensor:
        return self.norm(x_BND, F.silu(c_BD), ops)


def _silu_before_final_norm(model: ErnieDiT, patch: pytest.MonkeyPatch) -> None:
    model.final_norm = SiluFirst(model.final_norm)


def _longest_text_as_image_position(model: ErnieDiT, patch: pytest.MonkeyPatch) -> None:
    positions = rope._positions

    def wrong(text_len: int, layout: SequenceLayout, device: torch.device) -> Tensor:
        out = positions(text_len, layout, device)
        out[:, : layout.image_tokens, 0] = layout.text_width
        return out

    patch.setattr(rope, "_positions", wrong)


def _sigma_instead_of_1000_sigma(model: ErnieDiT, patch: pytest.MonkeyPatch) -> None:
    forward = TimeEmbedding.forward
    patch.setattr(TimeEmbedding, "forward", lambda self, t, dtype: forward(self, t / 1000, dtype))


def _standard_rope(model: ErnieDiT, patch: pytest.MonkeyPatch) -> None:
    model.config = msgspec.structs.replace(model.config, rope_layout="standard")


def _with_ops(ops: ReferenceOps) -> Callable[[ErnieDiT, pytest.MonkeyPatch], None]:
    def install(model: ErnieDiT, patch: pytest.MonkeyPatch) -> None:
        model.ops = ops

    return install


@pytest.mark.parametrize(
    ("mistake", "packed"),
    [
        pytest.param(_with_ops(TanhGelu()), True, id="tanh GELU"),
        pytest.param(_with_ops(UpFirst()), True, id="up and gate exchanged"),
        pytest.param(_with_ops(ScaleBeforeShift()), True, id="scale before shift in adaLN"),
        pytest.param(_with_ops(FinalShiftBeforeScale()), True, id="shift before scale in the final norm"),
        pytest.param(_with_ops(NoMask()), False, id="padding without a mask"),
        pytest.param(_standard_rope, True, id="standard rope"),
        pytest.param(_longest_text_as_image_position, True, id="longest text as image position"),
        pytest.param(_silu_before_final_norm, True, id="SiLU before the final norm"),
        pytest.param(_sigma_instead_of_1000_sigma, True, id="time in [0, 1]"),
    ],
)
def test_the_comparison_catches(mistake, packed, monkeypatch):
    reference = make_reference(MIXED)
    layout = SequenceLayout(MIXED.grid, MIXED.text_lens, packed=packed)
    model = make_ours(MIXED, reference)
    expected = reference_result(MIXED, reference)
    assert errors(MIXED, model, expected, layout)[0] <= OUTPUT_TOLERANCE
    mistake(model, monkeypatch)
    batch = make_batch(MIXED)
    wrong = model(batch.latents, batch.timestep, batch.text, batch.lens, layout)
    assert (wrong - expected[0]).abs().max() > 10 * OUTPUT_TOLERANCE * expected[0].abs().max()


def test_longest_text_as_image_position_shows_only_with_mixed_lengths(monkeypatch):
    """Why the cases above mix lengths: with equal ones this mistake is invisible."""
    case = replace(MIXED, text_lens=(9, 9, 9))
    reference = make_reference(case)
    model = make_ours(case, reference)
    _longest_text_as_image_position(model, monkeypatch)
    assert errors(case, model, reference_result(case, reference), None)[0] <= OUTPUT_TOLERANCE


def test_standard_rope_is_a_rotation_and_the_released_one_is_not():
    layout = SequenceLayout((3, 4), (5,))
    draw = torch.Generator().manual_seed(0)
    q = torch.randn(1, layout.longest, 1, 16, generator=draw)
    kept = {}
    for name in ("standard", "ernie"):
        table = rope.rope_table(
            layout,
            text_lens_B=None,
            theta=256.0,
            axes_dim=(4, 6, 6),
            rope_layout=name,
            dtype=torch.float32,
            device=torch.device("cpu"),
        )
        low, high = q.chunk(2, dim=-1)
        rotated = q * table[0] + torch.cat((-high, low), dim=-1) * table[1]
        kept[name] = float((rotated.norm(dim=-1) - q.norm(dim=-1)).abs().max())
    assert kept["standard"] < 1e-5
    assert kept["ernie"] > 0.1
