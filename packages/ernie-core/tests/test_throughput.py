"""Work per picture and peaks by name."""

import pytest

from ernie_core.train.throughput import Meter, peak_flops, train_flops


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
