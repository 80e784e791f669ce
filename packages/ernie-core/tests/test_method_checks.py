"""What a method says of its networks and turns is checked before it can cost a checkpoint."""

import json

import pytest
from torch import nn

from ernie_core.errors import ConfigError
from ernie_core.train.method import EmaConfig, Network, Turn
from ernie_core.train.observers import METRICS, ernie_step_finished
from ernie_core.train.trainer import checked_networks, checked_turn

NETWORKS = [Network("student", nn.Identity()), Network("fake", nn.Identity()), Network("teacher", nn.Identity(), trained=False)]


def test_networks_of_one_name_are_refused():
    assert checked_networks(NETWORKS) == tuple(NETWORKS)
    with pytest.raises(ConfigError, match="several networks called `fake`: their checkpoints would overwrite each other"):
        checked_networks([*NETWORKS, Network("fake", nn.Identity())])


@pytest.mark.parametrize(
    "changes", [{"follows": "teacher"}, {"follows": "nobody"}, {"follows": "student", "ema": None}, {"follows": "student", "trained": True}]
)
def test_a_network_follows_one_that_is_trained(changes):
    good = {"name": "slow", "module": nn.Identity(), "trained": False, "ema": EmaConfig()}
    assert len(checked_networks([*NETWORKS, Network(**good, follows="student")])) == 4
    with pytest.raises(ConfigError, match="network `slow` follows"):
        checked_networks([*NETWORKS, Network(**{**good, **changes})])


@pytest.mark.parametrize("name", ["teacher", "studnet"])
def test_a_turn_trains_only_trained_networks(name):
    assert checked_turn(Turn("both", ("student", "fake")), NETWORKS).name == "both"
    with pytest.raises(ConfigError, match=f"turn `odd` of the method trains `{name}`; its trained networks are student, fake"):
        checked_turn(Turn("odd", ("student", name)), NETWORKS)


def test_a_metric_that_is_not_finite_leaves_the_log_json(tmp_path):
    class View:
        directory = tmp_path
        kept = {}

    ernie_step_finished(View, 3, {"loss": float("nan"), "rate": 1.5})
    line = (tmp_path / METRICS).read_text()
    assert json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON")) == {"step": 3, "loss": None, "rate": 1.5}
