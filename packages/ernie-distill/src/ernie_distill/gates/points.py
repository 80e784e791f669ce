"""Where a gate is fitted: pictures of the run's own data, noised, and what each teacher makes of them. Kept on disk in pieces, so that a fit that was stopped goes
on, and one with other options begins at once.

A folder holds ``identity.json`` (all that decides about the predictions) and one folder with a manifest per piece. A piece is a function of its number.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ernie_core import io
from ernie_core.api import ConfigError, DataError, Part, Stage
from ernie_core.flow.matching import draw_prompts, encode_pixels
from ernie_core.flow.path import interpolate
from ernie_core.rng import Rng
from ernie_distill.gates.fit import Points, gram_of
from ernie_distill.gates.learned import features_of

if TYPE_CHECKING:
    from ernie_core.text.embeddings import TextEmbeddings
    from ernie_core.train.assemble import Assembly

IDENTITY, TENSORS, RECORDS = "identity.json", "points.safetensors", "records.json"
FORMAT = 1
PIECE_POINTS = 256


class Teachers(Protocol):
    """What is needed of a committee."""

    @property
    def names(self) -> tuple[str, ...]: ...

    def predict(self, k: int, x_BCHW: Tensor, sigma_B: Tensor, text: TextEmbeddings) -> Tensor:
        """Clean samples [B, C, h, w], float32."""
        ...


def gather(
    parts: Assembly,
    committee: Teachers,
    folder: str | Path,
    *,
    count: int,
    sigmas: tuple[float, float],
    held_out: float,
    styles: Mapping[str, float] | None,
    identity: Mapping[str, Any],
    report: Callable[[str], None] = lambda text: None,
) -> Points:
    """At least ``count`` points; those that the folder has are read, the others are computed and added to it.

    Args:
        parts: of the run; its data, in the order in which a run of the first stage would meet it.
        sigmas: lowest and highest noise level; stratified between them.
        held_out: share of the pictures, drawn by their key: all points of a picture are on one side.
        identity: what decides about the predictions.

    Raises:
        ConfigError: the folder was made with another identity, or a piece in it is damaged.
        DataError: a record that cannot be read, or has no caption or no picture.
        StorageError: the disk refused.
    """
    root, stage = Path(folder), parts.config.stages[0]
    with io.FolderLock(root):
        io.sweep_temporary(root)
        _check_identity(root, identity)
        steps = max(1, PIECE_POINTS // stage.batch_size)
        pieces = -(-count // (steps * stage.batch_size))
        for number in range(pieces):
            piece = root / f"piece-{number:05d}"
            if not piece.is_dir():
                _write(
                    piece, [_compute(parts, committee, step, stage, sigmas, styles) for step in range(number * steps, (number + 1) * steps)]
                )
                report(f"piece {number + 1} of {pieces}: {(number + 1) * steps * stage.batch_size:,} points")
            elif problem := io.verify_folder(piece):
                raise ConfigError(f"{problem}. Remove {piece}, and it is computed again.")
        return _read([root / f"piece-{number:05d}" for number in range(pieces)], held_out=held_out, seed=parts.config.run.seed)


def is_held_out(key: str, share: float, *, seed: int) -> bool:
    """Whether a picture is kept from learning: a function of its key."""
    digest = hashlib.blake2b(f"{seed}\0{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64 < share


Piece = tuple[dict[str, Tensor], list[dict[str, str]]]


@torch.no_grad()
def _compute(
    parts: Assembly, committee: Teachers, step: int, stage: Stage, sigmas: tuple[float, float], styles: Mapping[str, float] | None
) -> Piece:
    """One global batch, in the run's micro-batches."""
    rng = Rng(parts.config.run.seed).step(step)
    refs = parts.source.batch(step, global_batch=stage.batch_size, stage=stage)
    size = parts.config.run.micro_batch_size or stage.batch_size
    tensors: dict[str, list[Tensor]] = {"gram": [], "features": [], "sigma": []}
    records: list[dict[str, str]] = []
    low, high = sigmas
    for start in range(0, len(refs), size):
        indices = tuple(range(start, min(start + size, len(refs))))
        part = Part(parts.source.fetch(refs[indices[0] : indices[-1] + 1]), indices, stage)
        _check_pictures(part)
        text = parts.encoder.encode(draw_prompts(part, rng, dropout=0.0, styles=styles))
        x0_BCHW = encode_pixels(part, parts.codec, rng.at("posterior"), parts.engine.device, parts.compute).float()
        noise = rng.at("noise")
        noise_BCHW = torch.from_numpy(np.stack([noise.normal(index, tuple(x0_BCHW.shape[1:])) for index in indices])).to(x0_BCHW)
        u_B = torch.from_numpy(rng.at("gate-sigma").stratified(indices, stage.batch_size))
        sigma_B = (low + (high - low) * u_B).float()
        x_BCHW = interpolate(x0_BCHW, noise_BCHW, sigma_B)
        predictions = [committee.predict(k, x_BCHW, sigma_B, text).float().flatten(1) for k in range(len(committee.names))]
        tensors["gram"].append(gram_of(torch.stack(predictions, 1), x0_BCHW.flatten(1)).cpu())
        tensors["features"].append(features_of(sigma_B, text, x_BCHW))
        tensors["sigma"].append(sigma_B)
        records += [{"key": record.key, "domain": record.category} for record in part.records]
    return {name: torch.cat(values) for name, values in tensors.items()}, records


def _check_pictures(part: Part) -> None:
    """Data sources of prompts alone give black pictures, on which every teacher would be measured by nothing."""
    for record in part.records:
        if not record.pixels.any():
            raise DataError(
                f"record `{record.key}` is a prompt without a picture (all of it is black): a gate is fitted on real pictures. Name a data source of them by "
                'method.gate.fit.data = { use = "..." }'
            )


def _write(piece: Path, batches: Sequence[Piece]) -> None:
    tensors = {name: torch.cat([found[name] for found, _ in batches]).contiguous() for name in batches[0][0]}
    with io.commit_folder(piece, needed_bytes=sum(t.numel() * t.element_size() for t in tensors.values())) as writer:
        writer.add_file(TENSORS, lambda path: save_file(tensors, path))  # durable: staged, made so by commit_folder
        writer.add_json(RECORDS, [record for _, records in batches for record in records])


def _read(pieces: Sequence[Path], *, held_out: float, seed: int) -> Points:
    tensors = [load_file(piece / TENSORS) for piece in pieces]
    records = [record for piece in pieces for record in json.loads((piece / RECORDS).read_bytes())]
    gram, features, sigma = (torch.cat([found[name] for found in tensors]) for name in ("gram", "features", "sigma"))
    held_P = torch.tensor([is_held_out(record["key"], held_out, seed=seed) for record in records])
    return Points(gram, features, sigma, [record["domain"] for record in records], held_P)


def _check_identity(root: Path, identity: Mapping[str, Any]) -> None:
    here = json.loads(json.dumps({"format": FORMAT, **identity}))
    if not any(root.glob("piece-*")):  # nothing was computed yet, whatever was tried
        io.write_json(root / IDENTITY, here)
        return
    if not (root / IDENTITY).is_file():
        raise ConfigError(f"{root}: holds pieces but no {IDENTITY}; remove the folder, or give another by --points")
    try:
        stored = json.loads((root / IDENTITY).read_bytes())
    except ValueError:
        stored = {}
    if differing := [name for name in sorted({*stored, *here}) if stored.get(name) != here.get(name)]:
        lines = "".join(f"\n  {name}: there {json.dumps(stored.get(name))}, here {json.dumps(here.get(name))}" for name in differing)
        raise ConfigError(
            f"{root}: its points were computed for another committee or other data:{lines}\nRemove the folder, or give another by --points."
        )
