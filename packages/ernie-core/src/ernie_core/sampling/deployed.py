"""What sampling and export need of a checkpoint's config: not its data source, which the machine that samples may not have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from ernie_core.config.base import Config, From, Selection
from ernie_core.config.run import ModelTable, PrecisionTable, RunTable, SamplesTable
from ernie_core.records import Stage

if TYPE_CHECKING:
    from ernie_core.plugins.host import PluginHost
    from ernie_core.train.checkpoint import Checkpoint


class DeployedConfig(Config):
    """The tables of a ``TrainConfig`` under their own names."""

    codec: Annotated[Selection, From("codecs")]
    encoder: Annotated[Selection, From("tokenizers")]
    model: ModelTable
    stages: tuple[Stage, ...]
    run: RunTable = RunTable()
    precision: PrecisionTable = PrecisionTable()
    samples: SamplesTable = SamplesTable()


def deployed_config(checkpoint: Checkpoint, host: PluginHost) -> DeployedConfig:
    """Decode it.

    Raises:
        ConfigError: the stored config does not fit the installed plugins.
    """
    from ernie_core.config.load import from_plain

    stored = checkpoint.state["config"]
    plain = {name: stored[name] for name in DeployedConfig.__struct_fields__ if name in stored}
    return from_plain(plain, host, struct=DeployedConfig, where=str(checkpoint.directory))
