"""Exports a checkpoint as a diffusers folder: a whole ErnieImagePipeline where that can hold what was trained, or the transformer alone.

Nothing is converted on the way: keys and shapes are diffusers' already, components that were not trained are copied file for file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import torch
from torch import Tensor

from ernie_core import io
from ernie_core.errors import WeightsError
from ernie_core.latent.entries import Flux2Config
from ernie_core.latent.flux2 import vae_folder
from ernie_core.model.config import DIFFUSERS_CLASS, DiTConfig
from ernie_core.model.load import STEM, read_json
from ernie_core.sampling.deployed import DeployedConfig, deployed_config
from ernie_core.sampling.fixed import DEFAULT_SAMPLER, FILE, fixed_in_state, in_words, to_stored
from ernie_core.sampling.pipeline import PIPELINE_CLASS, SCHEDULER_CLASS, read_shift
from ernie_core.text.entries import Ministral3Config
from ernie_core.train.checkpoint import Checkpoint, open_checkpoint
from ernie_core.weights.deployed import deployed_weights
from ernie_core.weights.io import PICKLES

if TYPE_CHECKING:
    from ernie_core.plugins.host import PluginHost

PIPELINE_EPS = Flux2Config(path="").eps  # diffusers' pipeline decodes with this, whatever the autoencoder's config says
BUILT_IN_BLOCK = "ernie-shared-adaln"
SHARD_BYTES = 10_000_000_000  # diffusers' own default


@dataclass(frozen=True)
class Exported:
    """What was written: files, and what its reader should know."""

    folder: Path
    files: tuple[str, ...]
    notes: tuple[str, ...]


def export_diffusers(
    checkpoint_path: str | Path,
    out: str | Path,
    *,
    host: PluginHost,
    transformer_only: bool = False,
    raw: bool = False,
    dtype: torch.dtype = torch.float32,
    shard_bytes: int = SHARD_BYTES,
) -> Exported:
    """Write ``out``, which must not exist. A pipeline whose method fixed how it is sampled says so in ``sampling.json``, which diffusers ignores.

    Args:
        transformer_only: only ``config.json`` and weights, for use with ``prompt_embeds`` or with our own encoder. Possible with any codec and any
            encoder, but not with a rotary layout or a block that diffusers lacks: it would load such weights without a word and compute wrongly.
        raw: the trained weights instead of their moving average.
        dtype: of the transformer's weights.
        shard_bytes: larger weights are split into files of about this size, with an index.

    Raises:
        WeightsError: ``out`` exists, or diffusers cannot hold the model: every reason is listed.
        StorageError: the disk refused; nothing is visible at ``out`` then.
    """
    target = Path(out)
    if target.exists():
        raise WeightsError(f"{target}: already exists, and an export never overwrites; choose another folder")
    checkpoint = open_checkpoint(checkpoint_path)
    config = deployed_config(checkpoint, host)
    transformer = transformer_config(checkpoint)
    _refuse_unfit(checkpoint, config, transformer, transformer_only=transformer_only)
    weights = {name: value.to(dtype) for name, value in deployed_weights(checkpoint, raw=raw, host=host).items()}
    copied = {} if transformer_only else _copied_jobs(config, checkpoint)
    notes = checkpoint.notes
    if fixed := fixed_in_state(checkpoint.state, str(checkpoint.directory)):
        copied |= {} if transformer_only else {FILE: to_stored(fixed)}
        notes += (in_words(fixed),)
    jobs = {**copied, **_transformer_jobs(transformer, weights, "" if transformer_only else "transformer/", shard_bytes)}
    needed = sum(t.numel() * t.element_size() for t in weights.values()) + sum(
        j.stat().st_size for j in jobs.values() if isinstance(j, Path)
    )
    facts = {"exported_from": checkpoint.directory.name, "step": checkpoint.step, "weights": "raw" if raw else "ema where there is one"}
    with io.commit_folder(target, needed_bytes=needed, facts=facts) as writer:
        for name, job in jobs.items():
            if isinstance(job, Path):
                writer.add_file(name, partial(io.copy_file, job))
            elif isinstance(job, _Shard):
                writer.add_file(name, job.save)
            else:
                writer.add_json(name, job)
    return Exported(target, tuple(jobs), notes)


def transformer_config(checkpoint: Checkpoint) -> DiTConfig:
    """Sizes of the deployed transformer.

    Raises:
        WeightsError: it is not an ``ErnieDiT``.
    """
    name = checkpoint.state["deployed"]["transformer"]
    network = checkpoint.state["networks"][name]
    if network["config"] is None or network["class"] != "ErnieDiT":
        raise WeightsError(f"{checkpoint.directory}: the network `{name}` is a {network['class']}, and only an ErnieDiT can be exported")
    try:
        return msgspec.convert(network["config"], DiTConfig)
    except (msgspec.ValidationError, ValueError) as error:
        raise WeightsError(f"{checkpoint.directory}: the sizes of `{name}`: {error}") from error


def why_not_pipeline(checkpoint: Checkpoint, config: DeployedConfig, transformer: DiTConfig) -> list[str]:
    """Everything that a whole pipeline could not hold; empty if it can hold all."""
    reasons = []
    if not isinstance(config.codec.options, Flux2Config):
        reasons.append(f"codec `{config.codec.use}`: the pipeline decodes with the flux2 autoencoder")
    elif config.codec.options.eps != PIPELINE_EPS:
        reasons.append(f"codec eps = {config.codec.options.eps:g}: the pipeline decodes with {PIPELINE_EPS:g}")
    if not isinstance(config.encoder.options, Ministral3Config):
        reasons.append(f"encoder `{config.encoder.use}`: the pipeline encodes prompts with ministral3")
    if "encoder" in checkpoint.state["deployed"]:
        reasons.append("the prompt encoder was trained together with the model")
    fixed = fixed_in_state(checkpoint.state, str(checkpoint.directory))
    if fixed is not None and fixed.sampler != DEFAULT_SAMPLER:  # a few-step model's contrasts would be wrong, not less exact
        reasons.append(
            f"sampler `{fixed.sampler}`: the pipeline samples with {DEFAULT_SAMPLER}, and this model was distilled for the other"
        )
    return reasons + why_not_transformer(config, transformer)


def why_not_transformer(config: DeployedConfig, transformer: DiTConfig) -> list[str]:
    """What diffusers' transformer alone could not compute. It drops unknown fields of config.json and starts missing tensors at random, so nothing else
    would stop its user.
    """
    reasons = []
    if transformer.rope_layout != "ernie":
        reasons.append(f'rope_layout "{transformer.rope_layout}": {DIFFUSERS_CLASS} computes only "ernie"')
    others = sorted({part.block.use for part in config.model.blocks} - {BUILT_IN_BLOCK})
    return reasons + [f"block `{name}`: {DIFFUSERS_CLASS} has only {BUILT_IN_BLOCK}" for name in others]


def _refuse_unfit(checkpoint: Checkpoint, config: DeployedConfig, transformer: DiTConfig, *, transformer_only: bool) -> None:
    alone = why_not_transformer(config, transformer)
    reasons = alone if transformer_only else why_not_pipeline(checkpoint, config, transformer)
    if not reasons:
        return
    if alone:
        advice = "diffusers would load the transformer alone too, and compute something else. ernie-core reads the checkpoint itself."
    else:
        advice = "The transformer alone can be exported with --transformer-only, for use with prompt_embeds."
    holder = DIFFUSERS_CLASS if transformer_only else PIPELINE_CLASS
    raise WeightsError(
        "\n".join([f"{checkpoint.directory}: diffusers' {holder} cannot hold this model:", *(f"  {r}" for r in reasons), advice])
    )


def _transformer_jobs(config: DiTConfig, weights: Mapping[str, Tensor], prefix: str, shard_bytes: int) -> dict[str, Any]:
    jobs: dict[str, Any] = {f"{prefix}config.json": config.to_diffusers()}
    shards = list(_split(weights, shard_bytes))
    if len(shards) == 1:
        return {**jobs, f"{prefix}{STEM}.safetensors": _Shard(shards[0])}
    names = [f"{STEM}-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    total = sum(t.numel() * t.element_size() for t in weights.values())
    weight_map = {key: name for name, shard in zip(names, shards) for key in shard}
    jobs[f"{prefix}{STEM}.safetensors.index.json"] = {"metadata": {"total_size": total}, "weight_map": weight_map}
    return {**jobs, **{prefix + name: _Shard(shard) for name, shard in zip(names, shards)}}


@dataclass(frozen=True)
class _Shard:
    tensors: Mapping[str, Tensor]

    def save(self, path: Path) -> None:
        from safetensors.torch import save_file

        tensors = {name: tensor.contiguous() for name, tensor in self.tensors.items()}
        save_file(tensors, path, metadata={"format": "pt"})  # durable: the folder's writer fsyncs and hashes it


def _split(weights: Mapping[str, Tensor], shard_bytes: int) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    size = 0
    for name, tensor in weights.items():
        bytes_ = tensor.numel() * tensor.element_size()
        if shard and size + bytes_ > shard_bytes:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor
        size += bytes_
    yield shard


def _copied_jobs(config: DeployedConfig, checkpoint: Checkpoint) -> dict[str, Any]:
    """Every file of the pipeline the encoder came from, but for the transformer; the autoencoder from where the codec read it."""
    codec, encoder = config.codec.options, config.encoder.options
    if not isinstance(codec, Flux2Config) or not isinstance(encoder, Ministral3Config):
        raise TypeError("why_not_pipeline admits no other codec or encoder")
    base = Path(encoder.path)
    index = read_json(base / "model_index.json")
    if index.get("_class_name") != PIPELINE_CLASS:
        raise WeightsError(f"{base / 'model_index.json'}: found a {index.get('_class_name')}, expected an {PIPELINE_CLASS}")
    jobs: dict[str, Any] = {"model_index.json": base / "model_index.json"}
    for name, value in index.items():
        if name.startswith("_") or name in ("transformer", "vae") or not (isinstance(value, list) and any(value)):
            continue
        if name in ("", "..") or Path(name).name != name:  # nothing outside the pipeline is copied, nothing outside the export written
            raise WeightsError(f"{base / 'model_index.json'}: component {name!r}: expected the name of a folder beside it")
        jobs.update(_files_of(base / name, name))
    jobs.update(_files_of(vae_folder(codec.path), "vae"))
    shift = float(checkpoint.state["shift"])
    if read_shift(base) != shift:
        file = base / "scheduler" / "scheduler_config.json"
        jobs["scheduler/scheduler_config.json"] = {**json.loads(file.read_bytes()), "_class_name": SCHEDULER_CLASS, "shift": shift}
    return jobs


def _files_of(folder: Path, name: str) -> dict[str, Path]:
    """All files below a component's folder but pickles, which nobody should pass on."""
    if not folder.is_dir():
        raise WeightsError(f"{folder}: the pipeline's component `{name}` is missing")
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix not in PICKLES)
    return {f"{name}/{file.relative_to(folder).as_posix()}": file for file in files}
