"""From one stage of training to the next: a model goes on with the codec and the prompt encoder it was trained with. Light: no torch."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ernie_core.config.base import Config, Selection
from ernie_core.config.plain import to_json
from ernie_core.config.run import TrainConfig
from ernie_core.errors import Problem
from ernie_core.train.checkpoint import glance_at_state, is_own_checkpoint

RELEASED = {"codec": "flux2", "encoder": "ministral3"}  # what a diffusers pipeline of this model consists of


def hand_off_problems(config: Config, methods: Collection[str]) -> list[Problem]:
    """What a training config with one of these methods says otherwise than the model it starts from was trained with.

    Paths may differ, as files move; what is at them is checked by their own loaders. A transformer folder says nothing of its codec, and damaged weights
    are the loader's to refuse: neither is a problem here.
    """
    if not isinstance(config, TrainConfig) or config.method.use not in methods or config.model.init is None:
        return []
    init = Path(config.model.init)
    if (init / "model_index.json").is_file():
        selected = {"codec": config.codec.use, "encoder": config.encoder.use}
        return [
            Problem(table, f'use = "{selected[table]}", but model.init = {init} is a diffusers pipeline, which was trained with "{name}"')
            for table, name in RELEASED.items()
            if selected[table] != name
        ]
    state = glance_at_state(init) if is_own_checkpoint(init) else None
    if state is None:
        return []
    return [
        Problem(table, f"{_shown(asked)}, but model.init = {init} was trained with {_shown(trained)}: copy its [{table}]")
        for table, asked, trained in (
            (table, _without_paths(to_json(selection)), _without_paths(state["config"][table])) for table, selection in _tables(config)
        )
        if asked != trained
    ]


def _tables(config: TrainConfig) -> tuple[tuple[str, Selection], ...]:
    return ("codec", config.codec), ("encoder", config.encoder)


def _without_paths(table: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in table.items() if name != "path"}


def _shown(table: dict[str, Any]) -> str:
    return json.dumps(table)
