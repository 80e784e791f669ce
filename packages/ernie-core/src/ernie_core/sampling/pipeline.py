"""``load_pipeline``: a ``Pipeline`` from a released ErnieImagePipeline folder, or from one of our runs or checkpoints."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ernie_core.config.base import Selection
from ernie_core.errors import ConfigError, WeightsError
from ernie_core.latent.entries import Flux2Config
from ernie_core.model.load import load_transformer, read_json
from ernie_core.plugins.hookspecs import CodecContext, EncoderContext
from ernie_core.sampling.deployed import deployed_config
from ernie_core.sampling.fixed import DEFAULT_SAMPLER, fixed_in_folder, fixed_in_state, settle
from ernie_core.sampling.text_to_image import Pipeline, SampleDefaults
from ernie_core.text.entries import Ministral3Config
from ernie_core.weights.encoder import fill_encoder

if TYPE_CHECKING:
    from ernie_core.plugins.host import PluginHost

__all__ = ["Pipeline", "SampleDefaults", "load_pipeline", "read_shift", "usable_device"]

PIPELINE_CLASS = "ErnieImagePipeline"
SCHEDULER_CLASS = "FlowMatchEulerDiscreteScheduler"
# Options of that scheduler which, if set, change the noise levels from those of ``inference_sigmas``.
OTHER_LEVELS = (
    "use_dynamic_shifting",
    "shift_terminal",
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "invert_sigmas",
    "stochastic_sampling",
)


def load_pipeline(
    path: str | Path,
    *,
    host: PluginHost,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    raw: bool = False,
) -> Pipeline:
    """Build everything from disk.

    Args:
        path: a diffusers pipeline folder (codec ``flux2`` with eps 1e-5, encoder ``ministral3``, shift from its scheduler), a run or a checkpoint. How a
            model must be sampled whose method fixed that is taken from the checkpoint, or from ``sampling.json`` in the folder.
        dtype: of all networks; default float32.
        raw: of our checkpoints, the trained weights instead of their moving average.

    Raises:
        WeightsError: missing, damaged or foreign files, or parts that do not fit each other.
        RunFolderError: a run without a usable checkpoint.
        MissingComponent: a component of the checkpoint's config is not installed.
    """
    root, device, dtype = Path(path), usable_device(device), dtype or torch.float32
    if not root.is_dir():
        raise WeightsError(
            f"{root}: expected a run, a checkpoint or a diffusers pipeline folder, found {'a file' if root.exists() else 'nothing'}"
        )
    if (root / "model_index.json").is_file():
        pipeline = _from_diffusers(root, host=host, device=device, dtype=dtype)
    else:
        pipeline = _from_checkpoint(root, host=host, device=device, dtype=dtype, raw=raw)
    _check_fit(pipeline, root)
    return pipeline


def usable_device(device: torch.device | str) -> torch.device:
    """``auto`` is CUDA where there is one.

    Raises:
        ConfigError: there is no such device here.
    """
    if str(device) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f'device "{device}": no such device; expected auto, cpu or cuda') from error
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f'device "{device}": torch {torch.__version__} sees no CUDA device here; use "cpu"')
    return found


def read_shift(pipeline: Path) -> float:
    """The shift of a pipeline folder's scheduler.

    Raises:
        WeightsError: another scheduler, or options under which it would visit other noise levels than ours.
    """
    file = pipeline / "scheduler" / "scheduler_config.json"
    plain = read_json(file)
    if plain.get("_class_name") != SCHEDULER_CLASS:
        raise WeightsError(f"{file}: found a {plain.get('_class_name')}, expected a {SCHEDULER_CLASS}")
    for option in OTHER_LEVELS:
        if plain.get(option):
            raise WeightsError(f"{file}: {option} = {plain[option]!r} changes the noise levels, and the released pipeline does not use it")
    if plain.get("num_train_timesteps", 1000) != 1000:
        raise WeightsError(f"{file}: num_train_timesteps = {plain['num_train_timesteps']}, expected 1000: the model is told 1000 sigma")
    shift = plain.get("shift", 1.0)
    if not isinstance(shift, (int, float)) or not shift > 0:
        raise WeightsError(f"{file}: shift = {shift!r}, expected a number above 0")
    return float(shift)


def _from_diffusers(root: Path, *, host: PluginHost, device: torch.device, dtype: torch.dtype) -> Pipeline:
    found = read_json(root / "model_index.json").get("_class_name")
    if found != PIPELINE_CLASS:
        raise WeightsError(f"{root / 'model_index.json'}: found a {found}, expected an {PIPELINE_CLASS}")
    shift, fixed = read_shift(root), fixed_in_folder(root)
    transformer = load_transformer(root, device=device, dtype=dtype, host=host).eval()
    codec = host.build("codecs", Selection("flux2", Flux2Config(path=str(root))), CodecContext(device, dtype))
    encoder = host.build("tokenizers", Selection("ministral3", Ministral3Config(path=str(root))), EncoderContext(device, dtype, 0))
    if fixed is None:
        return Pipeline(transformer, codec, encoder, shift)
    defaults = SampleDefaults(steps=fixed.steps, guidance_scale=fixed.guidance_scale, sampler=fixed.sampler)
    return Pipeline(transformer, codec, encoder, shift, defaults=defaults, fixed=fixed)


def _from_checkpoint(root: Path, *, host: PluginHost, device: torch.device, dtype: torch.dtype, raw: bool) -> Pipeline:
    from ernie_core.train.checkpoint import open_checkpoint

    checkpoint = open_checkpoint(root)
    for note in checkpoint.notes:
        warnings.warn(note, stacklevel=3)
    config = deployed_config(checkpoint, host)
    fixed = fixed_in_state(checkpoint.state, str(checkpoint.directory))
    sampling = settle(config.samples, fixed)
    transformer = load_transformer(checkpoint.directory, device=device, dtype=dtype, raw=raw, host=host).eval()
    codec = host.build("codecs", config.codec, CodecContext(device, dtype))
    encoder = host.build("tokenizers", config.encoder, EncoderContext(device, dtype, config.run.seed))
    if "encoder" in checkpoint.state["deployed"]:
        fill_encoder(encoder, checkpoint, raw=raw, seed=config.run.seed)
        encoder.eval().requires_grad_(False)
    side = config.samples.size_px or config.stages[-1].size_px
    return Pipeline(
        transformer,
        codec,
        encoder,
        float(checkpoint.state["shift"]),
        latent_dtype=config.precision.latent_dtype,
        defaults=SampleDefaults((side, side), sampling.steps, sampling.guidance_scale, fixed.sampler if fixed else DEFAULT_SAMPLER),
        fixed=fixed,
    )


def _check_fit(pipeline: Pipeline, root: Path) -> None:
    config = pipeline.transformer.config
    if config.in_channels != pipeline.codec.channels:
        raise WeightsError(f"{root}: the transformer takes {config.in_channels} latent channels, the codec gives {pipeline.codec.channels}")
    if config.text_in_dim != pipeline.encoder.width:
        raise WeightsError(
            f"{root}: the transformer takes text of width {config.text_in_dim}, the prompt encoder gives {pipeline.encoder.width}"
        )
