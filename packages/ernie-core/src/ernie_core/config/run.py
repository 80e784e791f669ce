"""The tables of a training config (``ernie train CONFIG.toml``). Light: no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from ernie_core.config.base import BelowOne, Config, Count, Fraction, From, NonNegative, Positive, PositiveInt, Selection
from ernie_core.records import Stage
from ernie_core.train.method import EmaConfig


class RunTable(Config):
    """``[run]``"""

    seed: int = 0
    steps: PositiveInt | None = None
    """Stop at this optimiser step. Default: the sum of the stages; more than that extends the last stage."""
    micro_batch_size: PositiveInt | None = None
    """Pictures per forward pass and rank. Default: the whole share of the rank. Gradients are the same up to rounding."""


class BlockRange(Config):
    """``[[model.blocks]]``: layers ``first`` to ``last`` (both included) use another DiT block."""

    first: Count
    last: Count
    block: Annotated[Selection, From("dit_blocks")]


class ModelTable(Config):
    """``[model]``: either ``init`` (a diffusers pipeline, a transformer folder or one of our checkpoints) or the sizes of a new model.

    Channels come from the codec and the text width from the encoder.
    """

    init: str | None = None
    hidden_size: PositiveInt | None = None
    num_attention_heads: PositiveInt | None = None
    num_layers: PositiveInt | None = None
    ffn_hidden_size: PositiveInt | None = None
    rope_theta: Positive = 256.0
    rope_axes_dim: tuple[int, int, int] | None = None
    """Rotary dimensions for text position, row and column; their sum is the head size. Default: 1/4, 3/8, 3/8 of it, as released."""
    rope_layout: Literal["ernie", "standard"] = "ernie"
    eps: Positive = 1e-6
    blocks: tuple[BlockRange, ...] = ()
    checkpointing: Literal["none", "selective", "full"] = "none"
    """Recompute activations in backward: ``full`` keeps only block inputs, ``selective`` also keeps matrix products and attention."""

    def __post_init__(self) -> None:
        sizes = {n: getattr(self, n) for n in ("hidden_size", "num_attention_heads", "num_layers", "ffn_hidden_size")}
        missing = [n for n, v in sizes.items() if v is None]
        if self.init is None and missing:
            raise ValueError(f"without `init`, a new model needs {', '.join(missing)}")
        if self.init is not None and len(missing) < len(sizes):
            raise ValueError("`init` brings its own sizes: remove " + ", ".join(n for n in sizes if n not in missing))


class OptimizerTable(Config):
    """``[optimizer]`` and ``[optimizers.NAME]``: AdamW with decoupled weight decay (Loshchilov and Hutter 2019)."""

    learning_rate: Positive = 1e-4
    betas: tuple[BelowOne, BelowOne] = (0.9, 0.99)  # at 1 the running means would never move
    eps: Positive = 1e-8
    weight_decay: NonNegative = 0.0
    max_grad_norm: Positive | None = 1.0


class ScheduleTable(Config):
    """``[schedule]``: the factor on every learning rate."""

    kind: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: Count = 0
    decay_steps: PositiveInt | None = None
    """Step at which ``linear`` and ``cosine`` reach ``final_factor``. Default: the run's total steps when it first starts."""
    final_factor: Fraction = 0.0


class PrecisionTable(Config):
    """``[precision]``: master weights are always float32; there is no autocast."""

    compute: Literal["float32", "bfloat16"] = "float32"
    latent_dtype: Literal["model", "float32"] = "model"
    """State of the sampler: ``model`` is what diffusers does, ``float32`` avoids bf16 rounding between steps."""


class CheckpointTable(Config):
    """``[checkpoint]``"""

    every_steps: PositiveInt = 1000
    keep: PositiveInt = 3

    def __post_init__(self) -> None:
        if self.keep < 2:
            raise ValueError(f"keep = {self.keep}: at least 2, so that a damaged checkpoint leaves a valid one")


class ValidationTable(Config):
    """``[validation]``: the flow loss at sigma = (i + .5) / 8 with fixed noise per sample, on ``data`` or, without it, on training records."""

    every_steps: Count = 0
    """0: never."""
    samples: PositiveInt = 32
    data: Annotated[Selection, From("data_sources")] | None = None


class SamplesTable(Config):
    """``[samples]``: a picture grid of fixed prompts and seeds."""

    every_steps: Count = 0
    """0: never."""
    prompts: tuple[str, ...] = ()
    size_px: PositiveInt | None = None
    """Default: the current stage's size."""
    steps: PositiveInt | None = None
    """Default: the method's own where it fixes how its model is sampled, else 20. Also what ``ernie sample`` takes by default."""
    guidance_scale: NonNegative | None = None
    """Default: the method's own, else 4."""
    sampler: Annotated[Selection, From("samplers")] | None = None
    """Default: the method's own, else ``euler``."""
    seed: int = 0


class GuardTable(Config):
    """``[guard]``: what happens when a step's loss or gradient is not finite, or its norm is a spike."""

    spike_factor: NonNegative = 0.0
    """Refuse a gradient norm above this many times its running mean; 0: never."""
    refused_in_a_row: PositiveInt = 5
    """After so many refusals in a row the last checkpoint's weights and optimiser are restored and the run goes on with later data."""
    max_rollbacks: Count = 2


class LoggingTable(Config):
    """``[logging]``"""

    every_steps: PositiveInt = 10
    tensorboard: bool = True


class FlowTable(Config):
    """``[flow]``"""

    shift: Positive | None = None
    """Shift of the inference schedule (spec section 1.6), for sample grids, ``ernie sample`` and exported schedulers. Default: that of the scheduler or
    checkpoint in ``model.init``, else 3. The density that training draws from has a shift of its own."""


class PluginsTable(Config):
    """``[plugins]``"""

    disable: tuple[str, ...] = ()
    require: tuple[str, ...] = ()
    allow_failed: bool = False
    """Start although an installed plugin failed to load."""


class TrainConfig(Config):
    """A whole training config."""

    codec: Annotated[Selection, From("codecs")]
    encoder: Annotated[Selection, From("tokenizers")]
    data: Annotated[Selection, From("data_sources")]
    model: ModelTable
    stages: tuple[Stage, ...]
    run: RunTable = RunTable()
    method: Annotated[Selection, From("methods")] = Selection("pretrain")
    flow: FlowTable = FlowTable()
    optimizer: OptimizerTable = OptimizerTable()
    optimizers: dict[str, OptimizerTable] = {}
    schedule: ScheduleTable = ScheduleTable()
    ema: EmaConfig | None = EmaConfig()
    precision: PrecisionTable = PrecisionTable()
    checkpoint: CheckpointTable = CheckpointTable()
    validation: ValidationTable = ValidationTable()
    samples: SamplesTable = SamplesTable()
    guard: GuardTable = GuardTable()
    logging: LoggingTable = LoggingTable()
    ops: Annotated[Selection, From("op_sets")] = Selection("auto")
    engine: Annotated[Selection, From("engines")] = Selection("auto")
    cache: Annotated[Selection, From("caches")] | None = None
    """Keep what the frozen codec and prompt encoder give, so that a picture or caption that comes again is not encoded again."""
    data_workers: Count = 2
    plugins: PluginsTable = PluginsTable()

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError("expected at least one [[stages]] table with size_px, steps and batch_size")

    @property
    def total_steps(self) -> int:
        return self.run.steps or sum(stage.steps for stage in self.stages)

    @property
    def total_pictures(self) -> int:
        """Pictures in all batches; beyond the last stage's end it goes on."""
        total, left = 0, self.total_steps
        for number, stage in enumerate(self.stages, start=1):
            steps = left if number == len(self.stages) else min(stage.steps, left)
            total, left = total + steps * stage.batch_size, left - steps
        return total
