"""Work per picture and peaks by name."""

import pytest
from torch import nn

from ernie_core.model.config import DiTConfig
from ernie_core.train.method import Network
from ernie_core.train.throughput import Meter, peak_flops, train_flops
from ernie_core.train.trainer import flops_per_picture


def test_the_released_model_at_1024_pixels_costs_about_2_4e14_flops_per_picture():
    assert train_flops(8_033_490_048, tokens=4096 + 256, layers=36, width=4096) == pytest.approx(2.43e14, rel=0.02)


@pytest.mark.parametrize(
    ("name", "peak"), [("NVIDIA H200", 989e12), ("NVIDIA GB200", 2500e12), ("NVIDIA A100-SXM4-80GB", 312e12), ("CPU", None)]
)
def test_peaks_are_known_by_name_the_longest_match_winning(name, peak):
    assert peak_flops(name) == peak


def test_a_reading_starts_the_count_anew_and_knows_mfu_only_with_a_peak():
    meter = Meter()
    meter.add(10)
    assert meter.read(1e12, 1, 1e9).keys() == {"images_per_s", "mfu"}
    with meter.paused():
        pass
    assert meter.read(None, 1, 1e9) == {"images_per_s": 0.0}


def test_only_a_dit_is_counted_whatever_else_is_trained():
    dit, other = nn.Linear(2, 3), nn.Linear(5, 5)
    dit.config = DiTConfig(
        hidden_size=16,
        num_attention_heads=2,
        num_layers=3,
        ffn_hidden_size=8,
        in_channels=4,
        out_channels=4,
        text_in_dim=4,
        rope_axes_dim=(4, 2, 2),
    )
    other.config = object()
    networks = [Network("other", other), Network("dit", dit)]
    assert flops_per_picture(networks, {"tokens": 10.0}) == train_flops(9, tokens=10, layers=3, width=16)
    assert flops_per_picture(networks[:1], {"tokens": 10.0}) is None
    assert flops_per_picture(networks, {}) is None
