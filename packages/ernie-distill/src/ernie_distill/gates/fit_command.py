"""``ernie distill gates fit CONFIG.toml... --out DIR``: learn the gate of a run's committee from the run's own pictures, before it starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from torch import nn

from ernie_core.adapters.config import AdapterConfig
from ernie_core.api import App, Config, ConfigError, DataSourceContext, Identified, Selection, to_plain
from ernie_core.model.fingerprint import sha256_module
from ernie_core.train.assemble import Assembly, assemble, build_engine
from ernie_distill.gate_config import ConstantConfig, FitConfig, LearnedConfig
from ernie_distill.gates.fit import Fitted, fit, load_table
from ernie_distill.gates.learned import save_gate
from ernie_distill.gates.points import Teachers, gather
from ernie_distill.method import MtDmd
from ernie_distill.method_config import MtDmdConfig
from ernie_distill.turns import FAKE, STUDENT

if TYPE_CHECKING:
    from ernie_core.api import PluginHost


def fit_for_run(
    config: Any, *, host: PluginHost, out: str | Path, points: str | Path, report: Callable[[str], None] = lambda text: None
) -> Fitted:
    """Build the run's committee and fit its gate.

    Args:
        config: a ``TrainConfig`` whose method is ``mt-dmd``; where its gate is ``learned``, that one's ``fit`` says how.

    Raises:
        ConfigError: another method, a single teacher, several ranks; see also ``fit_gate``.
    """
    options = config.method.options
    if not isinstance(options, MtDmdConfig):
        raise ConfigError(f'gates fit: expected a config with [method] use = "mt-dmd", found "{config.method.use}"')
    if len(options.teachers) < 2:
        raise ConfigError("gates fit: a gate chooses among teachers, and method.teachers has one")
    if Path(out).exists():
        raise ConfigError(f"{out}: already exists, and finished folders are never overwritten")
    engine = build_engine(config, host)
    if engine.group.world_size > 1:
        raise ConfigError("gates fit runs in one process: start it without torchrun")
    built = msgspec.structs.replace(config, method=Selection(config.method.use, _teachers_alone(options)))
    parts = assemble(built, host, engine, draws=0, note=lambda event, step, facts: None)
    if not isinstance(parts.method, MtDmd):
        raise ConfigError(f'the method "mt-dmd" is {type(parts.method).__qualname__} of another plugin')
    chosen = fit_options(options)
    if chosen.data is not None:
        context = DataSourceContext(config.run.seed, parts.codec.pixels_per_token, stages=config.stages)
        parts = replace(parts, source=host.build("data_sources", chosen.data, context))
    committee = parts.method.committee
    hashes = committee.hashes()
    for network in parts.method.networks():
        if network.name not in (STUDENT, FAKE):
            network.module.to(engine.device, parts.compute).requires_grad_(False).eval()
    return fit_gate(parts, committee, hashes, options, out=out, points=points, report=report)


def fit_gate(
    parts: Assembly,
    committee: Teachers,
    hashes: list[str],
    options: MtDmdConfig,
    *,
    out: str | Path,
    points: str | Path,
    report: Callable[[str], None] = lambda text: None,
) -> Fitted:
    """Compare the teachers on the run's pictures, fit, and write the gate.

    Args:
        hashes: one of each teacher's weights.
        out: new folder; see ``save_gate``.
        points: where the comparison is kept; see ``gather``.

    Raises:
        ConfigError: see ``gather`` and ``fit``.
        DataError: a record that cannot be used.
        StorageError: the disk refused, or ``out`` exists.
    """
    chosen = fit_options(options)
    found = gather(
        parts,
        committee,
        points,
        count=chosen.points,
        sigmas=(options.match.low, options.match.high),
        held_out=chosen.held_out,
        styles=options.styles or None,
        identity=identity_of(parts, committee, hashes, options),
        report=report,
    )
    seed = parts.config.run.seed
    fitted = fit(found, chosen, teachers=committee.names, seed=seed)
    text_width, channels = int(parts.encoder.width), int(parts.codec.channels)
    facts = {
        "teachers": [{"name": name, "sha256": digest} for name, digest in zip(committee.names, hashes, strict=True)],
        "text_width": text_width,
        "channels": channels,
        "guidance": "rewards" if chosen.guidance_rewards else "as-match",
        "errors": fitted.errors,
        "errors_are": "mean squared errors of the clean sample"
        + (", in units of the teachers' mean at each point" if chosen.relative else ""),
        "points": len(found),
        "step": fitted.step,
        "load": load_table(found, fitted.network, rewarded=bool(chosen.guidance_rewards)),
        "fit": to_plain(chosen),
        "seed": seed,
    }
    save_gate(out, fitted.network, facts)
    return fitted


def _teachers_alone(options: MtDmdConfig) -> MtDmdConfig:
    """The run's committee without what nobody asks here: the gate, which is not there yet, the reward's scorer, and student and fake score, which are made as
    the smallest adapters."""
    gate = Selection("constant", ConstantConfig())
    return msgspec.structs.replace(options, gate=gate, reward=None, adapter=AdapterConfig(rank=1))


def fit_options(options: MtDmdConfig) -> FitConfig:
    gate = options.gate.options
    return gate.fit if isinstance(gate, LearnedConfig) else FitConfig()


def identity_of(parts: Assembly, committee: Teachers, hashes: list[str], options: MtDmdConfig) -> dict[str, Any]:
    """All that decides about the teachers' predictions and the features."""
    config = parts.config
    return {
        "teachers": [list(pair) for pair in zip(committee.names, hashes, strict=True)],  # in order, as the columns of the points are
        "sigmas": [options.match.low, options.match.high],
        "styles": dict(options.styles),
        "seed": config.run.seed,
        "data": _selected(fit_options(options).data or config.data),
        "stage": to_plain(config.stages[0]),
        "codec": [_selected(config.codec), _weights_of(parts.codec)],
        "encoder": [_selected(config.encoder), _weights_of(parts.encoder)],
        "compute": config.precision.compute,
    } | ({"records": parts.source.identity()} if isinstance(parts.source, Identified) else {})


def _selected(selection: Selection) -> Mapping[str, Any]:
    options = selection.options
    return {"use": selection.use} | (dict(to_plain(options)) if isinstance(options, Config) else {})


def _weights_of(component: Any) -> str:
    if isinstance(component, Identified):
        return component.identity()
    return sha256_module(component) if isinstance(component, nn.Module) else ""


def run(configs: list[str], overrides: list[str], out: str, points: str, app: App) -> int:
    """The verb's body, after its arguments."""
    loaded = app.load_config(configs, overrides)
    fitted = fit_for_run(loaded.config, host=loaded.host, out=out, points=points, report=app.err)
    for name, errors in fitted.errors.items():
        if errors is not None:
            app.out(f"{name.replace('_', ' ')}: " + ", ".join(f"{what.replace('_', ' ')} {value:.4g}" for what, value in errors.items()))
    if not fitted.step:
        app.out("nothing better than the best constant mixture was found, and the gate is that one; see method.gate.fit")
    app.out(f'{out}: use it by gate = {{ use = "learned", path = "{out}" }}')
    app.out(f"{points}: what a fit needs of the teachers' predictions, for another one; remove it when you have done")
    return 0
