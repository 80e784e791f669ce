r"""The gate ``learned`` (G5): a small network over what a gate may look at, fitted before distillation and frozen in it.

    logits = MLP([pooled text, fourier(sigma), mean and deviation of each channel of x, one-hot objective])
    W      = (1 - floor) softmax(logits) + floor / K

The matching loss could not train it: its gradient for the student is a constant target. ``ernie_distill.gates.fit`` does, on real pictures.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ernie_core import io
from ernie_core.api import ConfigError, GateContext
from ernie_core.model.fingerprint import sha256_module
from ernie_core.rng import Rng
from ernie_distill.api import OBJECTIVES
from ernie_distill.gate_config import LearnedConfig
from ernie_distill.gates.weights import on_simplex

if TYPE_CHECKING:
    from ernie_core.text.embeddings import TextEmbeddings
    from ernie_distill.api import GateInputs, Objective

WEIGHTS, FACTS = "gate.safetensors", "gate.json"
FORMAT = 1
OCTAVES = 4  # of fourier(sigma): sin and cos of pi 2^j sigma


class GateNetwork(nn.Module):
    """Starts as the constant gate ``start_K``: the last layer is zero but for its bias. Computes on the CPU in float32, its softmax in float64.

    Args:
        features: F, see ``features_of``.
        start_K: weights on the simplex before the floor.
        floor: share of the weight that is spread evenly, below 1.
    """

    def __init__(self, features: int, start_K: Tensor, *, hidden: int, floor: float, seed: int) -> None:
        super().__init__()
        rng = Rng(seed).at("gate-network", 0)
        bound = (features + len(OBJECTIVES)) ** -0.5
        self.inner = nn.Linear(features + len(OBJECTIVES), hidden, device="meta")
        self.outer = nn.Linear(hidden, len(start_K), device="meta")
        self.inner.weight = nn.Parameter(torch.from_numpy(rng.uniform(0, (hidden, features + len(OBJECTIVES))) * 2 - 1) * bound)
        self.inner.bias = nn.Parameter(torch.from_numpy(rng.uniform(1, (hidden,)) * 2 - 1) * bound)
        self.outer.weight = nn.Parameter(torch.zeros(len(start_K), hidden))
        self.outer.bias = nn.Parameter(start_K.double().clamp_min(1e-30).log().float())
        self.mean_F: Tensor
        self.scale_F: Tensor
        self.register_buffer("mean_F", torch.zeros(features))
        self.register_buffer("scale_F", torch.ones(features))
        self.floor = floor

    def standardise(self, features_PF: Tensor) -> None:
        """Take mean and deviation of each feature from these; one that never varies is left out, whatever it is later."""
        deviation_F = features_PF.double().std(0, correction=0)
        varies_F = deviation_F > 1e-6 * features_PF.double().abs().amax(0)
        self.mean_F = features_PF.double().mean(0).float()
        self.scale_F = torch.where(varies_F, 1 / torch.where(varies_F, deviation_F, 1.0), 0.0).float()

    def standard(self, features_PF: Tensor) -> Tensor:
        """Features as the layers take them: with mean 0 and deviation 1 where they were fitted, and cut, so that it does not extrapolate far beyond."""
        return ((features_PF - self.mean_F) * self.scale_F).clamp(-8, 8)

    def weights(self, standard_PF: Tensor, objective: Objective) -> Tensor:
        """Weights [P, K], float64, from ``standard`` features."""
        told = F.one_hot(torch.tensor(OBJECTIVES.index(objective)), len(OBJECTIVES)).float().expand(len(standard_PF), -1)
        logits_PK = self.outer(F.silu(self.inner(torch.cat([standard_PF, told], 1))))
        return (1 - self.floor) * logits_PK.double().softmax(1) + self.floor / logits_PK.shape[1]

    def forward(self, features_PF: Tensor, objective: Objective) -> Tensor:
        """Weights [P, K], float64."""
        return self.weights(self.standard(features_PF), objective)


def features_of(sigma_B: Tensor, text: TextEmbeddings, x_BCHW: Tensor) -> Tensor:
    """[B, E + 1 + 2 OCTAVES + 2 C], float32, on the CPU; each sample's by itself, whatever the padding of the others."""
    real_BT = torch.arange(text.text_BTE.shape[1], device=text.text_BTE.device) < text.lens_B[:, None]
    pooled_BE = (text.text_BTE.float() * real_BT[..., None]).sum(1) / text.lens_B[:, None]
    pixels_BCN = x_BCHW.detach().float().flatten(2)
    angle_BJ = sigma_B.cpu().double()[:, None] * (math.pi * 2.0 ** torch.arange(OCTAVES, dtype=torch.float64))
    fourier = torch.cat([sigma_B.cpu().double()[:, None], angle_BJ.sin(), angle_BJ.cos()], 1).float()
    statistics = torch.cat([pixels_BCN.mean(2), pixels_BCN.std(2, correction=0)], 1)
    return torch.cat([pooled_BE.detach().cpu(), fourier, statistics.cpu()], 1)


def feature_count(text_width: int, channels: int) -> int:
    return text_width + 1 + 2 * OCTAVES + 2 * channels


class Learned:
    """
    Args:
        network: frozen.
        facts: of ``gate.json``.
        source: where it comes from, for messages.
    """

    def __init__(self, network: GateNetwork, facts: Mapping[str, Any], *, source: str) -> None:
        self._network, self._facts, self._source = network.requires_grad_(False).eval(), facts, source

    @torch.no_grad()
    def __call__(self, inputs: GateInputs) -> Tensor:
        """[B, K] on the CPU: the network is small, and the method must know there who is asked.

        Raises:
            ConfigError: text or latents are of another width than those that it was fitted on.
        """
        for what, here in (("text_width", inputs.text.text_BTE.shape[2]), ("channels", inputs.x_BCHW.shape[1])):
            if here != self._facts[what]:
                raise ConfigError(
                    f"gate learned: {self._source} was fitted with {what} {self._facts[what]}, here it is {here}: another codec or encoder. "
                    "Fit it anew with `ernie distill gates fit`."
                )
        objective: Objective = inputs.objective if self._facts["guidance"] == "rewards" else "dm"
        return on_simplex(self._network(features_of(inputs.sigma_B, inputs.text, inputs.x_BCHW), objective))

    def check_teachers(self, hashes: Sequence[str]) -> None:
        """
        Args:
            hashes: of the teachers that it is to choose among, see ``Committee.hashes``.

        Raises:
            ConfigError: it was fitted to others of the same names.
        """
        changed = [told["name"] for told, here in zip(self._facts["teachers"], hashes, strict=True) if told["sha256"] != here]
        if changed:
            raise ConfigError(
                f"gate learned: {self._source} was fitted to other weights than {', '.join(changed)} {'has' if len(changed) == 1 else 'have'} now. Fit it anew "
                "with `ernie distill gates fit`"
            )

    def identity(self) -> str:
        """Of its weights."""
        return f"learned {sha256_module(self._network)}"

    def describe(self) -> Sequence[str]:
        errors = self._facts["errors"]["held_out"] or self._facts["errors"]["train"]
        told = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in errors.items())
        guidance = "by rewards" if self._facts["guidance"] == "rewards" else "as for matching"
        return [f"gate learned: {self._source}; guidance {guidance}; errors: {told}"]


def save_gate(target: str | Path, network: GateNetwork, facts: Mapping[str, Any]) -> None:
    """Write a folder of ``gate.safetensors``, ``gate.json`` and a manifest.

    Args:
        facts: at least ``teachers`` (a list of tables with ``name``), ``text_width``, ``channels``, ``guidance`` ("rewards" or "as-match") and ``errors``.

    Raises:
        StorageError: the folder exists already, or the disk refused.
    """
    state = {name: value.detach().contiguous() for name, value in network.state_dict().items()}
    with io.commit_folder(target, needed_bytes=sum(t.numel() * t.element_size() for t in state.values())) as writer:
        writer.add_file(WEIGHTS, lambda path: save_file(state, path))  # durable: staged, made so by commit_folder
        writer.add_json(FACTS, {"format": FORMAT, "hidden": network.inner.out_features, "floor": network.floor, **facts})


def load_gate(path: str | Path, teachers: Sequence[str]) -> Learned:
    """
    Raises:
        ConfigError: no such folder, a damaged one, one of another format, or one that was fitted for other teachers or another order of them.
    """
    folder = Path(path)
    again = "Write it with `ernie distill gates fit CONFIG.toml --out DIR`."
    if not folder.is_dir():
        raise ConfigError(f"gate learned: path = {folder}: no such folder. {again}")
    if problem := io.verify_folder(folder):
        raise ConfigError(f"gate learned: {problem}. {again}")
    if not (folder / FACTS).is_file() or not (folder / WEIGHTS).is_file():
        raise ConfigError(f"gate learned: path = {folder}: holds no {FACTS} and {WEIGHTS}. {again}")
    facts = json.loads((folder / FACTS).read_bytes())
    if facts.get("format") != FORMAT:
        raise ConfigError(f"gate learned: {folder} is of format {facts.get('format')}, this version reads format {FORMAT}. {again}")
    fitted = [teacher["name"] for teacher in facts["teachers"]]
    if fitted != list(teachers):
        raise ConfigError(
            f"gate learned: {folder} was fitted for the teachers {', '.join(fitted)}, in this order; here they are {', '.join(teachers)}. {again}"
        )
    even_K = torch.full((len(fitted),), 1 / len(fitted))
    count = feature_count(facts["text_width"], facts["channels"])
    network = GateNetwork(count, even_K, hidden=facts["hidden"], floor=facts["floor"], seed=0)
    network.load_state_dict(load_file(folder / WEIGHTS))
    return Learned(network, facts, source=str(folder))


def build(config: LearnedConfig, context: GateContext) -> Learned:
    if not config.path:
        raise ConfigError("gate learned: path is missing; expected a folder that `ernie distill gates fit CONFIG.toml --out DIR` wrote")
    return load_gate(config.path, context.teachers)
