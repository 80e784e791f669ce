"""Which device a rank takes, and what it is told when there is none."""

import pytest
import torch

from ernie_core.errors import ConfigError
from ernie_core.parallel.group import choose_device


@pytest.mark.parametrize(("usable", "rank", "name"), [(0, 0, "cuda"), (2, 2, "cuda"), (2, 3, "auto")])
def test_a_rank_without_a_gpu_is_a_config_error(monkeypatch, usable, rank, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: usable > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: usable)
    monkeypatch.setenv("LOCAL_RANK", str(rank))
    with pytest.raises(ConfigError) as caught:
        choose_device(name)
    assert f"local rank {rank} has no GPU to run on: {usable} usable here. Start at most one rank per GPU" in str(caught.value)
    assert 'engine.device = "cpu"' in str(caught.value)


def test_auto_is_the_cpu_where_there_is_no_gpu_and_else_the_local_ranks_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")
    taken = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert choose_device("auto") == torch.device("cuda", 1)
    assert taken == [torch.device("cuda", 1)]
