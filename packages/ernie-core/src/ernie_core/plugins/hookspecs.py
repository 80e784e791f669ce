"""Every hook of the plugin API: when it is called, by whom, and where it is not. Light: torch only under type checking.

Registration hooks take no arguments and return entries; they are called once per host, before any config is decoded, and must not import torch.
Observer hooks are called by the trainer on rank 0. No hook is called inside a forward pass or once per operation.
The context structs below are what a component's ``build(config, context)`` receives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pluggy

from ernie_core.config.base import Config, Selection
from ernie_core.errors import Problem
from ernie_core.plugins.entry import Command, Entry
from ernie_core.records import Stage

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ernie_core.config.run import TrainConfig
    from ernie_core.train.encodings import Encodings

PROJECT = "ernie"
API_VERSION = (0, 1)

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@dataclass(frozen=True)
class PureContext:
    """For losses, samplers, densities and caches, which need nothing beyond their config."""


@dataclass(frozen=True)
class CodecContext:
    device: torch.device
    dtype: torch.dtype


@dataclass(frozen=True)
class EncoderContext:
    """``seed`` initialises a trainable encoder; a frozen one ignores it."""

    device: torch.device
    dtype: torch.dtype
    seed: int


@dataclass(frozen=True)
class OpSetContext:
    device: torch.device
    dtype: torch.dtype


@dataclass(frozen=True)
class BlockContext:
    """For a DiT block. ``layer`` is the index of the layer it is built for, ``num_layers`` their total."""

    hidden_size: int
    num_attention_heads: int
    ffn_hidden_size: int
    eps: float
    layer: int
    num_layers: int


def _unheard(event: str, step: int, facts: Mapping[str, Any]) -> None:
    """What is noted outside of a run is not kept."""


@dataclass(frozen=True)
class DataSourceContext:
    """``size_multiple_px``: picture sides must be multiples of it (the codec's, e.g. 16).

    ``stages`` are the run's; without any, the source learns of a stage when it is asked for a batch. ``draws`` is how many pictures the run takes in
    all, as planned when it first started; 0: unknown, or a validation set. ``note(event, step, facts)`` writes a line to the run's ledger, from any
    thread; ``step`` is the step it concerns, counted from 0.
    """

    seed: int
    size_multiple_px: int
    stages: tuple[Stage, ...] = ()
    draws: int = 0
    note: Callable[[str, int, Mapping[str, Any]], None] = _unheard


@dataclass(frozen=True)
class DataStageContext:
    """For a curation stage. ``survey``: the committed folder of the stage's own survey of the whole dataset; None for a stage without one, and while
    the survey itself is made. ``build(registry, selection, context)`` builds a scorer or the like that the stage's config selects. ``columns``: name
    and type of each column that earlier stages give.
    """

    build: Callable[[str, Selection, Any], Any]
    survey: Path | None = None
    columns: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ScorerContext:
    """``device`` is a name such as "cpu" or "cuda:0": scorers without torch ignore it."""

    device: str = "cpu"


@dataclass(frozen=True)
class EvaluationContext:
    """``build(registry, selection, context)`` builds a scorer that the suite's own config selects. ``device``: where a judge with a model should run it,
    a name such as "cpu" or "cuda"."""

    build: Callable[[str, Selection, Any], Any]
    device: str = "cpu"


@dataclass(frozen=True)
class EngineContext:
    """``dtype`` is the compute type. Rank and world size come from torchrun's environment variables, the device from the engine's own config."""

    dtype: torch.dtype


@dataclass(frozen=True)
class MethodContext:
    """What a method may build its networks from.

    ``make_transformer()`` returns a new model at the run's initial weights on each call: a policy and its frozen reference are two calls.
    ``component(registry, selection)`` builds a loss, density ... that the method's own config selects; what needs another context than ``PureContext`` is
    given it as third argument.
    ``encodings`` keeps what the frozen codec and encoder gave before; None: nothing is kept.
    ``shift`` and ``latent_dtype`` are those of inference ("model" or "float32"): a method that samples while it trains visits the noise levels, in the
    arithmetic, that users will.
    """

    seed: int
    device: torch.device
    dtype: torch.dtype
    make_transformer: Callable[[], nn.Module]
    codec: Any
    encoder: Any
    component: Callable[..., Any]
    stages: tuple[Stage, ...]
    ema: Config | None
    encodings: Encodings | None = None
    shift: float = 3.0
    latent_dtype: str = "model"


@dataclass(frozen=True)
class GateContext:
    """For the gate of a committee of teachers. ``teachers`` are their names, the generalist first; ``domains`` the ones each is an expert of (for the
    generalist none)."""

    teachers: tuple[str, ...]
    domains: tuple[tuple[str, ...], ...]


@dataclass
class RunControl:
    """What observers may ask of a run.

    Attributes:
        stop_because: once it is not empty, the run ends after the current step with this reason, exit code 1 and no further checkpoint.
        spare_steps: checkpoints of these steps are kept, whatever ``checkpoint.keep`` says.
    """

    stop_because: str = ""
    spare_steps: set[int] = field(default_factory=set)


@dataclass(frozen=True)
class RunView:
    """What observers see of a run. ``kept`` is where an observer keeps what it opened, under its plugin's name, until the run is finished."""

    directory: Path
    config: TrainConfig
    total_steps: int
    start_step: int
    kept: dict[str, Any] = field(default_factory=dict)
    control: RunControl = field(default_factory=RunControl)


@dataclass(frozen=True)
class EnvironmentCheck:
    """One line of ``ernie doctor``: something outside of Python packages that a component needs, such as a program or a driver.

    ``state``: "ok", "absent" (only what needs it is unusable) or "problem" (it is there and does not work). ``detail``: what was found, or what to do.
    """

    name: str
    state: Literal["ok", "absent", "problem"]
    detail: str


class Hooks:
    """All hook specifications."""

    @hookspec
    def ernie_register_tokenizers(self) -> Iterable[Entry]:
        """Offer prompt encoders: prompts to ``TextEmbeddings``. Built by the trainer and by sampling with an ``EncoderContext``.

        .. versionadded:: API 0.1
        """

    @hookspec
    def ernie_register_codecs(self) -> Iterable[Entry]:
        """Offer image codecs: pixels to scaled latents and back. Built by the trainer and by sampling with a ``CodecContext``.

        .. versionadded:: API 0.1
        """

    @hookspec
    def ernie_register_dit_blocks(self) -> Iterable[Entry]:
        """Offer DiT blocks: ``block(x_BSD, inputs: BlockInputs) -> x_BSD``. Built once per layer of a range, with a ``BlockContext``.

        .. versionadded:: API 0.1
        """

    @hookspec
    def ernie_register_losses(self) -> Iterable[Entry]:
        """Offer losses, ``kind="flow"`` or ``kind="pair"``. Built by methods with a ``PureContext``; not called for validation, which is always mean squared error.

        .. versionadded:: API 0.1
        """

    @hookspec
    def ernie_register_samplers(self) -> Iterable[Entry]:
        """Offer samplers: ``sampler(velocity_fn, x_BCHW, sigmas, *, noise_fn=None, on_step=None) -> x_BCHW``. Built with a ``PureContext``.

        .. versionadded:: API 0.1
        """

    @hookspec
    def ernie_register_densities(self) -> Iterable[Entry]:
        """Offer training-time densities of sigma, as inverse distribution functions: ``density(u_B) -> sigma_B``. Built by methods with a ``PureContext``.

        .. versionadded:: API 0.1
        """

    @hookspec
    def ernie_register_methods(self) -> Iterable[Entry]:
        """Offer training methods. Built once per run by the trainer with a ``MethodContext``.

        .. versionadded:: API 0.1
        """

    @hookspec
    def ernie_register_data_sources(self) -> Iterable[Entry]:
        """Offer data sources. Built by the trainer on every rank with a ``DataSourceContext``.

        .. versionadded:: API 0.1
        """

    @hookspec
    def ernie_register_data_stages(self) -> Iterable[Entry]:
        """Offer curation stages: records in, new columns or a refusal out. Built by ``ernie data build`` (ernie-data) in every worker process with a
        ``DataStageContext``; never called by the trainer. Their protocol is ``ernie_data.api.DataStage``.

        .. versionadded:: API 0.1
        """

    @hookspec
    def ernie_register_scorers(self) -> Iterable[Entry]:
        """Offer scorers: ``score(images, prompts) -> scores_B``, higher is better. Built with a ``ScorerContext`` by curation, preference building and
        evaluations.

        .. versionadded:: API 0.1
        """

    @hookspec
    def ernie_register_evaluations(self) -> Iterable[Entry]:
        """Offer evaluation suites: prompts to sample, and a judge of the pictures. Built by ``ernie eval`` with an ``EvaluationContext``; not called by
        the trainer.

        .. versionadded:: API 0.1
        """

    @hookspec
    def ernie_register_op_sets(self) -> Iterable[Entry]:
        """Offer op sets: the fused or plain kernels that model code calls. Built once per model with an ``OpSetContext``; not called per operation.

        .. versionadded:: API 0.1
        """

    @hookspec
    def ernie_register_engines(self) -> Iterable[Entry]:
        """Offer parallel engines. Built once per run by the trainer with an ``EngineContext``.

        .. versionadded:: API 0.1
        """

    @hookspec
    def ernie_register_gates(self) -> Iterable[Entry]:
        """Offer gates: how much each teacher of a committee counts for a sample, by noise level, prompt and objective. Built by ernie-distill's method with a
        ``GateContext``; their protocol is ``ernie_distill.api.Gate``. Not called by the trainer.

        .. versionadded:: API 0.1
        """

    @hookspec
    def ernie_register_caches(self) -> Iterable[Entry]:
        """Offer stores for what frozen codecs and prompt encoders give: ``get(key) -> Tensor | None`` and ``put(key, tensor)``. Built once per rank by
        the trainer with a ``PureContext``; keys are core's. A store may lose anything, and must return nothing but what was put under the key.

        .. versionadded:: API 0.1
        """

    @hookspec
    def ernie_register_commands(self) -> Iterable[Command]:
        """Offer command-line verbs. Called by ``ernie`` for its help and for a verb that core does not have itself.

        .. versionadded:: API 0.1
        """

    @hookspec
    def ernie_doctor(self) -> Iterable[EnvironmentCheck]:
        """Look for what components need of this machine beyond Python packages. Called by ``ernie doctor`` alone; must return within seconds and must
        not import torch.

        .. versionadded:: API 0.1
        """

    @hookspec
    def ernie_check_config(self, config: Config) -> Iterable[Problem]:
        """Find problems in a decoded config before anything is built. Called by ``ernie train`` and ``ernie config check``; must not import torch.

        .. versionadded:: API 0.1
        """

    @hookspec
    def ernie_run_started(self, run: RunView) -> None:
        """A run starts or resumes. Called by the trainer on rank 0, after everything is built and before the first step.

        .. versionadded:: API 0.1
        """

    @hookspec
    def ernie_step_finished(self, run: RunView, step: int, metrics: Mapping[str, float]) -> None:
        """Metrics were aggregated. Called by the trainer on rank 0 every ``logging.every_steps``, and after validation; not called after every step.

        .. versionadded:: API 0.1
        """

    @hookspec
    def ernie_checkpoint_saved(self, run: RunView, step: int, path: Path) -> None:
        """A checkpoint was verified and ``latest`` points to it. Called by the trainer on rank 0.

        .. versionadded:: API 0.1
        """

    @hookspec
    def ernie_run_finished(self, run: RunView, step: int, reason: str) -> None:
        """The run ended: ``reason`` is "done", "signal" or "stopped". Called by the trainer on rank 0; not called after a crash.

        .. versionadded:: API 0.1
        """


REGISTRIES: Sequence[str] = tuple(n.removeprefix("ernie_register_") for n in vars(Hooks) if n.startswith("ernie_register_"))
