"""Light part: entries, and an observer that asks a run to stop when the environment says so."""

import os

from ernie_core.api import Config, Entry, PositiveInt, hookimpl

ERNIE_API = (0, 1)


class PicturesConfig(Config):
    count: int = 64
    fail_at: int = -1
    """Row whose reading raises, for tests of errors."""
    log_fetches: bool = False
    """Print ``fetch [keys]`` for each batch that is read."""


class ToyConfig(Config):
    """``nan_steps``: steps whose loss is multiplied by ``poison`` on rank ``nan_rank`` (-1: all)."""

    nan_steps: tuple[int, ...] = ()
    poison: str = "nan"  # a checkpoint's config is JSON, which has no nan and no inf
    nan_rank: int = -1


class FewStepsConfig(ToyConfig):
    steps: PositiveInt = 8
    sampler: str = "euler"
    guidance_scale: float = 1.0


class LinearConfig(Config):
    """No options."""


class ColoursConfig(Config):
    """``fault``: how the judge misbehaves, for tests of errors."""

    count: PositiveInt = 7
    odd_ids: tuple[str, ...] = ()
    fault: str = ""


@hookimpl
def ernie_register_evaluations():
    yield Entry("toy-colours", "is the picture of the colour that was asked for", ColoursConfig, "toy_methods.suite:build")


@hookimpl
def ernie_register_dit_blocks():
    yield Entry("toy-linear", "a residual linear map with buffers", LinearConfig, "toy_methods.blocks:build_linear")


@hookimpl
def ernie_register_data_sources():
    yield Entry("toy-pictures", "coloured gradients with captions", PicturesConfig, "toy_methods.pictures:build")


@hookimpl
def ernie_register_methods():
    yield Entry(
        "toy-reference", "two networks, one frozen: learns to leave its reference", ToyConfig, "toy_methods.methods:build_reference"
    )
    yield Entry("toy-alternating", "student and fake score in a period of six turns", ToyConfig, "toy_methods.methods:build_alternating")
    yield Entry("toy-few-steps", "pre-training that fixes how its model is sampled", FewStepsConfig, "toy_methods.methods:build_few_steps")
    yield Entry("toy-adapter", "an adapter over a frozen base", ToyConfig, "toy_methods.methods:build_adapter")
    yield Entry(
        "toy-encoder",
        "transformer and a trainable prompt encoder with an optimiser of its own",
        ToyConfig,
        "toy_methods.methods:build_encoder",
    )


@hookimpl
def ernie_checkpoint_saved(run, step, path):
    if os.environ.get("TOY_SPARE") == str(step):
        run.control.spare_steps.add(step)


@hookimpl
def ernie_step_finished(run, step, metrics):
    if os.environ.get("TOY_STOP") == str(step):
        run.control.stop_because = f"the loss was {metrics['loss']:.2f}"
