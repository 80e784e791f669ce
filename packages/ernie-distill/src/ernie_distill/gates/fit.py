r"""Fitting a gate to the errors of its teachers: mixture regression, as pure functions of arrays.

    minimise over W on the simplex:   | x0 - sum_k W_k E_k |^2 / D  =  sum_kl W_k G_kl W_l,      G_kl = <E_k - x0, E_l - x0> / D

for every point (a real picture x0, noised to sigma). It is convex in W, and since the weights sum to 1, G is all of the predictions that counts: K^2 numbers per
point in place of K D. So predictions are made once, and a fit costs a minute of one core.

Source: mixtures of experts by regression (Jacobs et al. 1991); spec of MT-DMD's learned gates is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from ernie_core.api import ConfigError
from ernie_core.rng import Rng
from ernie_distill.gate_config import FitConfig
from ernie_distill.gates.learned import GateNetwork

SWEEPS = 200  # of pairwise descent; it ends earlier where nothing moves
CHECK_EVERY_STEPS = 20
TENTHS = 10
START_LEAST = 1e-2


@dataclass(frozen=True)
class Points:
    """Where the teachers were compared.

    Attributes:
        gram_PKK: see the module, float64.
        features_PF: see ``features_of``.
        sigma_P: noise levels.
        domains: P names, "" where there is none.
        held_P: bool, which points are not learnt from.
    """

    gram_PKK: Tensor
    features_PF: Tensor
    sigma_P: Tensor
    domains: Sequence[str]
    held_P: Tensor

    def __len__(self) -> int:
        return len(self.gram_PKK)


@dataclass(frozen=True)
class Fitted:
    """``errors`` by "train" and "held_out" (None where nothing was held out): of the gate, and of what it is measured against. ``step``: the one that was kept;
    0 is the best constant mixture."""

    network: GateNetwork
    errors: dict[str, dict[str, float] | None]
    step: int


def gram_of(predictions_PKD: Tensor, targets_PD: Tensor) -> Tensor:
    """G [P, K, K], float64: teachers differ by little of their common error, which float32 would lose."""
    errors_PKD = predictions_PKD.double() - targets_PD.double()[:, None]
    return errors_PKD @ errors_PKD.transpose(1, 2) / errors_PKD.shape[2]


def error_of(gram_PKK: Tensor, weights_PK: Tensor) -> Tensor:
    """Mean squared error [P] of the mixtures."""
    return torch.einsum("pk,pkl,pl->p", weights_PK, gram_PKK, weights_PK)


def relative(gram_PKK: Tensor) -> Tensor:
    """In units of the teachers' mean squared error at each point; points at which all are right count nothing."""
    mean_P = gram_PKK.diagonal(dim1=1, dim2=2).mean(1)
    return torch.where(mean_P > 0, 1 / torch.where(mean_P > 0, mean_P, 1.0), 0.0)[:, None, None] * gram_PKK


def simplex_minimum(gram_PKK: Tensor) -> Tensor:
    """The weights [P, K] on the simplex that minimise ``W G W``, each point by itself.

    By exact steps along pairs of teachers, from the best single one: each lowers the error or leaves it, so that the result is never worse than any
    teacher. G must be convex along differences of weights, as Gram matrices are.
    """
    count = gram_PKK.shape[1]
    best_P = gram_PKK.diagonal(dim1=1, dim2=2).argmin(1)
    weights_PK = torch.nn.functional.one_hot(best_P, count).to(gram_PKK)
    for _ in range(SWEEPS):
        before = weights_PK.clone()
        for i, j in combinations(range(count), 2):
            gradient_PK = torch.einsum("pkl,pl->pk", gram_PKK, weights_PK)
            curvature_P = gram_PKK[:, i, i] - 2 * gram_PKK[:, i, j] + gram_PKK[:, j, j]
            flat_P = curvature_P <= 0
            move_P = (gradient_PK[:, j] - gradient_PK[:, i]) / torch.where(flat_P, 1.0, curvature_P)
            move_P = torch.where(flat_P, 0.0, move_P.clamp(-weights_PK[:, i], weights_PK[:, j]))  # from j to i
            weights_PK[:, i] += move_P
            weights_PK[:, j] -= move_P
        if (weights_PK - before).abs().max() < 1e-12:
            break
    weights_PK = weights_PK.clamp_min(0)
    return weights_PK / weights_PK.sum(1, keepdim=True)


def best_constant(gram_PKK: Tensor, floor: float = 0.0) -> Tensor:
    """The weights u [K] before the floor whose mixture ``(1 - floor) u + floor / K`` is best for all points together."""
    mean_KK = gram_PKK.mean(0)
    count = len(mean_KK)
    linear_K = (1 - floor) * floor / count * mean_KK.sum(1)
    floored_KK = (1 - floor) ** 2 * mean_KK + linear_K[:, None] + linear_K[None]  # the same function on the simplex
    return simplex_minimum(floored_KK[None])[0]


def fit(points: Points, config: FitConfig, *, teachers: Sequence[str], seed: int = 0) -> Fitted:
    """Learn a gate. A pure function: equal points, equal weights.

    It starts as the best constant mixture and keeps the step that is best on what was held out (on the training points if nothing was), among those that are no
    worse than that mixture on the training points; so it never does worse than it there.

    Raises:
        ConfigError: too few points, or rewards that do not cover domains or teachers.
    """
    gram_PKK = relative(points.gram_PKK) if config.relative else points.gram_PKK
    held_P = points.held_P
    if bool(held_P.all()) or (config.held_out and not bool(held_P.any())):
        raise ConfigError(f"fit: of {len(points)} points {int(held_P.sum())} are held out; raise method.gate.fit.points")
    guidance_PK = reward_weights(points.domains, config, teachers)
    start_K = best_constant(gram_PKK[~held_P], config.floor)
    network = GateNetwork(points.features_PF.shape[1], start_K, hidden=config.hidden, floor=config.floor, seed=seed)
    network.standardise(points.features_PF[~held_P])
    everything = _Set(gram_PKK, network.standard(points.features_PF), guidance_PK)
    train = everything.rows(~held_P)
    held = everything.rows(held_P) if held_P.any() else train
    bar = _constant_error(train.gram_PKK, start_K, config.floor)
    kept, kept_score, kept_step = _state(network), _score(held, network), 0
    network.outer.bias.data = start_K.clamp_min(START_LEAST).log().float()  # of a teacher without weight nothing could be learnt
    decayed = [network.inner.weight, network.outer.weight]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": [network.inner.bias, network.outer.bias], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate)
    rng = Rng(seed).at("gate-batch", 0)
    for step in range(config.steps + 1):
        if step % CHECK_EVERY_STEPS == 0 or step == config.steps:
            score = _score(held, network)
            if score < kept_score and _matching_error(train, network) <= bar:
                kept, kept_score, kept_step = _state(network), score, step
        if step < config.steps:
            batch = train
            if config.batch_size < len(train):
                drawn = rng.generator(step).choice(len(train), config.batch_size, replace=False)
                batch = train.rows(torch.from_numpy(drawn))
            optimizer.zero_grad()
            sum(batch.losses(network)).backward()
            optimizer.step()
    network.load_state_dict(kept)
    network.requires_grad_(False)
    errors = {
        "train": _errors(train, train, network, config.floor),
        "held_out": None if held is train else _errors(held, train, network, config.floor),
    }
    return Fitted(network, errors, kept_step)


def reward_weights(domains: Sequence[str], config: FitConfig, teachers: Sequence[str]) -> Tensor | None:
    """Guidance weights [P, K] that the rewards ask for, ``softmax(reward / temperature)``; None without rewards.

    Raises:
        ConfigError: a domain of the points, or a teacher, has no reward, or there is one of no teacher.
    """
    if not config.guidance_rewards:
        return None
    if missing := sorted(set(domains) - set(config.guidance_rewards)):
        known = ", ".join(sorted(config.guidance_rewards))
        raise ConfigError(f"fit.guidance_rewards: none for domain `{missing[0]}`, which is in the data; there are some for {known}")
    for domain, rewards in config.guidance_rewards.items():
        if set(rewards) != set(teachers):
            raise ConfigError(
                f"fit.guidance_rewards: for domain `{domain}` they name {', '.join(sorted(rewards)) or 'nobody'}; expected one for each teacher: "
                f"{', '.join(teachers)}"
            )
    rows = {
        domain: torch.tensor([rewards[name] for name in teachers], dtype=torch.float64).div(config.temperature).softmax(0)
        for domain, rewards in config.guidance_rewards.items()
    }
    return torch.stack([rows[domain] for domain in domains])


@torch.no_grad()
def load_table(points: Points, network: GateNetwork, *, rewarded: bool) -> list[dict[str, Any]]:
    """Mean weights by domain and tenth of the noise levels, for both objectives, with the number of points."""
    weights = {name: network(points.features_PF, name if rewarded else "dm") for name in ("dm", "ca")}
    tenth_P = (points.sigma_P * TENTHS).long().clamp(0, TENTHS - 1)
    rows = []
    for domain in sorted(set(points.domains)):
        mine_P = torch.tensor([name == domain for name in points.domains])
        for tenth in range(TENTHS):
            chosen_P = mine_P & (tenth_P == tenth)
            if chosen_P.any():
                means = {name: weights_PK[chosen_P].mean(0).tolist() for name, weights_PK in weights.items()}
                rows.append({"domain": domain, "sigma": [tenth / TENTHS, (tenth + 1) / TENTHS], "points": int(chosen_P.sum()), **means})
    return rows


@dataclass(frozen=True)
class _Set:
    gram_PKK: Tensor
    standard_PF: Tensor
    guidance_PK: Tensor | None

    def __len__(self) -> int:
        return len(self.gram_PKK)

    def rows(self, chosen_P: Tensor) -> _Set:
        return _Set(self.gram_PKK[chosen_P], self.standard_PF[chosen_P], None if self.guidance_PK is None else self.guidance_PK[chosen_P])

    def losses(self, network: GateNetwork) -> list[Tensor]:
        """Error of the mixtures; with rewards also the cross-entropy of guidance weights."""
        found = [error_of(self.gram_PKK, network.weights(self.standard_PF, "dm")).mean()]
        if self.guidance_PK is not None:
            found.append(-(self.guidance_PK * network.weights(self.standard_PF, "ca").log()).sum(1).mean())
        return found


@torch.no_grad()
def _errors(points: _Set, train: _Set, network: GateNetwork, floor: float) -> dict[str, float]:
    """Baselines are chosen on the training points; the oracle, which no gate can beat, sees each point's own answer."""
    gram_PKK, count = points.gram_PKK, points.gram_PKK.shape[1]
    single = int(train.gram_PKK.diagonal(dim1=1, dim2=2).mean(0).argmin())
    even_K = gram_PKK.new_full((count,), 1 / count)
    return {
        "gate": _matching_error(points, network),
        "best_single_teacher": float(gram_PKK[:, single, single].mean()),
        "uniform_mixture": _constant_error(gram_PKK, even_K, 0.0),
        "best_constant_mixture": _constant_error(gram_PKK, best_constant(train.gram_PKK, floor), floor),
        "oracle": float(error_of(gram_PKK, simplex_minimum(gram_PKK)).mean()),
    }


@torch.no_grad()
def _score(points: _Set, network: GateNetwork) -> float:
    return float(sum(points.losses(network)))


@torch.no_grad()
def _matching_error(points: _Set, network: GateNetwork) -> float:
    return float(error_of(points.gram_PKK, network.weights(points.standard_PF, "dm")).mean())


def _constant_error(gram_PKK: Tensor, before_floor_K: Tensor, floor: float) -> float:
    weights_K = (1 - floor) * before_floor_K + floor / len(before_floor_K)
    return float(weights_K @ gram_PKK.mean(0) @ weights_K)


def _state(network: GateNetwork) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}
