"""From one stage of training to the next: a model goes on with the codec and the prompt encoder it was trained with. Light: no torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from ernie_core.config.base import Config, Selection
from ernie_core.config.plain import to_json
from ernie_core.config.run import TrainConfig
from ernie_core.errors import Problem
from ernie_core.train.checkpoint import glance_at_state, is_own_checkpoint

RELEASED = {"codec": "flux2", "encoder": "ministral3"}  # what a diffusers pipeline of this model consists of


def hand_off_problems(
    config: Config, methods: Collection[str], *, others: Callable[[Config], Mapping[str, str]] | None = None
) -> list[Problem]:
    """What a training config with one of these methods says otherwise than the models it starts from were trained with.

    Paths may differ, as files move; what is at them is checked by their own loaders. A transformer folder says nothing of its codec, and damaged weights
    are the loader's to refuse: neither is a problem here.

    Args:
        others: from a method's options, weights that compute with this codec and encoder beside ``model.init``, by the key that names them.
    """
    if not isinstance(config, TrainConfig) or config.method.use not in methods:
        return []
    inits = {} if config.model.init is None else {"model.init": config.model.init}
    if others is not None:
        inits |= others(config.method.options)
    return [problem for key, init in inits.items() for problem in _problems(config, key, Path(init))]


def _problems(config: TrainConfig, key: str, init: Path) -> list[Problem]:
    if (init / "model_index.json").is_file():
        selected = {"codec": config.codec.use, "encoder": config.encoder.use}
        return [
            Problem(table, f'use = "{selected[table]}", but {key} = {init} is a diffusers pipeline, which was trained with "{name}"')
            for table, name in RELEASED.items()
            if selected[table] != name
        ]
    state = glance_at_state(init) if is_own_checkpoint(init) else None
    if state is None:
        return []
    return [
        Problem(table, f"{_shown(asked)}, but {key} = {init} was trained with {_shown(trained)}: copy its [{table}]")
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
