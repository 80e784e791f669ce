"""Builders of the engines that core offers."""

from __future__ import annotations

from ernie_core.errors import ConfigError
from ernie_core.parallel.entries import DdpConfig, SingleConfig
from ernie_core.parallel.group import DistributedGroup, OneRank, choose_device, launched_world_size
from ernie_core.parallel.replicated import ReplicatedEngine
from ernie_core.plugins.hookspecs import EngineContext


def build_single(config: SingleConfig, context: EngineContext) -> ReplicatedEngine:
    ranks = launched_world_size()
    if ranks > 1:
        raise ConfigError(f'engine.use = "single", but {ranks} ranks were started: use "ddp" or "auto", or start one process')
    return ReplicatedEngine(choose_device(config.device), OneRank())


def build_ddp(config: DdpConfig, context: EngineContext) -> ReplicatedEngine:
    ranks = launched_world_size()
    device = choose_device(config.device)
    if ranks == 1:
        raise ConfigError(
            'engine.use = "ddp" needs several ranks: run `ernie train --nproc N`, or under torchrun, or set engine.use = "auto"'
        )
    return ReplicatedEngine(device, DistributedGroup(device, timeout_s=config.timeout_s))


def build_auto(config: DdpConfig, context: EngineContext) -> ReplicatedEngine:
    if launched_world_size() > 1:
        return build_ddp(config, context)
    return build_single(SingleConfig(device=config.device), context)
