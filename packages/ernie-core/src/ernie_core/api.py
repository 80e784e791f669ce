"""The public, versioned surface for plugin authors. Importing it imports no torch.

.. code-block:: python

    from ernie_core.api import Config, Entry, hookimpl

    ERNIE_API = (0, 1)

    @hookimpl
    def ernie_register_samplers():
        yield Entry("my-sampler", "what it does", MyConfig, "my_package.sampler:build")
"""

from ernie_core.cli.app import App
from ernie_core.config.base import Config, Count, Fraction, From, NonNegative, Positive, PositiveInt, Selection, recheck
from ernie_core.config.load import from_plain
from ernie_core.config.plain import to_plain, to_table
from ernie_core.config.toml import to_toml
from ernie_core.errors import (
    ConfigError,
    DataError,
    ErnieError,
    MissingComponent,
    PluginError,
    Problem,
    RunFolderError,
    StorageError,
    TrainingStopped,
    WeightsError,
)
from ernie_core.plugins.entry import Command, Entry
from ernie_core.plugins.hookspecs import (
    API_VERSION,
    BlockContext,
    CodecContext,
    DataSourceContext,
    DataStageContext,
    EncoderContext,
    EngineContext,
    EnvironmentCheck,
    EvaluationContext,
    GateContext,
    MethodContext,
    OpSetContext,
    PureContext,
    RunControl,
    RunView,
    ScorerContext,
    hookimpl,
)
from ernie_core.plugins.host import PluginHost
from ernie_core.records import DataSource, Identified, Record, RecordRef, Stage
from ernie_core.scoring import EvalPrompt, Evaluation, Scorer
from ernie_core.train.method import EmaConfig, FixedSampling, Method, Metrics, Network, Part, Turn

__all__ = [
    "API_VERSION",
    "App",
    "BlockContext",
    "CodecContext",
    "Command",
    "Config",
    "ConfigError",
    "Count",
    "DataError",
    "DataSource",
    "DataSourceContext",
    "DataStageContext",
    "EmaConfig",
    "EncoderContext",
    "EngineContext",
    "Entry",
    "EnvironmentCheck",
    "ErnieError",
    "EvalPrompt",
    "Evaluation",
    "EvaluationContext",
    "FixedSampling",
    "Fraction",
    "From",
    "GateContext",
    "Identified",
    "Method",
    "MethodContext",
    "Metrics",
    "MissingComponent",
    "Network",
    "NonNegative",
    "OpSetContext",
    "Part",
    "PluginError",
    "PluginHost",
    "Positive",
    "PositiveInt",
    "Problem",
    "PureContext",
    "Record",
    "RecordRef",
    "RunControl",
    "RunFolderError",
    "RunView",
    "Scorer",
    "ScorerContext",
    "Selection",
    "Stage",
    "StorageError",
    "TrainingStopped",
    "Turn",
    "WeightsError",
    "from_plain",
    "hookimpl",
    "recheck",
    "to_plain",
    "to_table",
    "to_toml",
]
