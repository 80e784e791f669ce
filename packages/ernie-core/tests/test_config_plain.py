"""Configs as JSON values: infinite options survive a checkpoint and are compared by it."""

from __future__ import annotations

import json
import math
import tomllib

from ernie_core.config.base import Config, Selection
from ernie_core.config.plain import to_json, to_table
from ernie_core.config.toml import to_toml


class Knobs(Config):
    tau: float = math.inf
    least: float = -math.inf
    many: tuple[float, ...] = (1.0, math.inf)


class Outer(Config):
    chosen: Selection = Selection("x", Knobs())
    by_name: dict[str, float] = {}


def test_infinite_numbers_become_words_in_json_and_stay_numbers_in_toml():
    plain = to_json(Outer(by_name={"a": math.inf, "b": 0.5}))
    assert plain == {"chosen": {"use": "x", "tau": "inf", "least": "-inf", "many": [1.0, "inf"]}, "by_name": {"a": "inf", "b": 0.5}}
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert tomllib.loads(to_toml(to_table(Outer())))["chosen"] == {"use": "x", "tau": math.inf, "least": -math.inf, "many": [1.0, math.inf]}
