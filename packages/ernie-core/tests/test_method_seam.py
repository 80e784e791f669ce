"""Metrics add up in any grouping, and the light half of the seam stays light."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ernie_core.train.method import Metrics

VALUES = st.lists(st.floats(-100, 100), min_size=1, max_size=12)


@given(VALUES, st.integers(0, 12))
def test_means_do_not_depend_on_how_samples_were_split(values, cut):
    together, apart, rest = Metrics(), Metrics(), Metrics()
    together.add_values("loss", torch.tensor(values, dtype=torch.float64))
    apart.add_values("loss", torch.tensor(values[:cut], dtype=torch.float64))
    rest.add_values("loss", torch.tensor(values[cut:], dtype=torch.float64))
    apart.merge(rest)
    assert apart.means()["loss"] == pytest.approx(together.means()["loss"], abs=1e-9)


def test_a_metric_of_some_samples_is_averaged_over_those():
    metrics = Metrics()
    metrics.add("accuracy", 3.0, 4)
    metrics.add("accuracy", torch.tensor(1.0), 1)
    metrics.add("never", 0.0, 0)
    assert metrics.means() == {"accuracy": pytest.approx(0.8), "never": 0.0}


def test_the_api_imports_no_torch():
    code = "import sys, ernie_core.api, ernie_core.train.method; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
