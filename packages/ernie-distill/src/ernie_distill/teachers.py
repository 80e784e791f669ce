"""The committee: a generalist, which is the shared base itself, and experts, as adapters over that base or as networks of their own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from ernie_core.api import ConfigError, Network
from ernie_core.flow.path import per_sample
from ernie_core.model.architecture import check_same_architecture
from ernie_core.model.fingerprint import sha256_module
from ernie_core.model.load import load_transformer
from ernie_core.text.embeddings import TextEmbeddings
from ernie_core.weights.deployed import load_adapters
from ernie_core.weights.encoder import check_same_encoder
from ernie_distill.denoise import denoise
from ernie_distill.method_config import MtDmdConfig, TeacherConfig
from ernie_distill.roles import Roles
from ernie_distill.turns import FAKE

if TYPE_CHECKING:
    from ernie_core.api import MethodContext


@dataclass(frozen=True)
class Teacher:
    """``module`` is its own: an adapter, or a whole transformer; None for the generalist, which is the base, and for a blend of others' adapters.
    ``strengths`` of adapters on the base, by name in the bank; None: it is a network of its own."""

    name: str
    domains: tuple[str, ...]
    module: nn.Module | None
    strengths: Mapping[str, float] | None


class Committee:
    """
    Args:
        teachers: the generalist first.
        dtype: of the computation.
    """

    def __init__(self, teachers: Sequence[Teacher], roles: Roles, *, dtype: torch.dtype) -> None:
        self._teachers, self._roles, self._dtype = tuple(teachers), roles, dtype

    @classmethod
    def build(cls, config: MtDmdConfig, context: MethodContext, roles: Roles) -> Committee:
        """
        Raises:
            ConfigError: a teacher of another architecture, or one that cannot do what the options ask of it.
            WeightsError: a teacher that is not usable, whose adapter was trained on another base, or that reads text with another encoder.
        """
        generalist, *experts = config.teachers
        paths = {expert.name: expert.path for expert in experts if expert.path is not None}
        adapters = load_adapters(roles.bank, {network_name(name): path for name, path in paths.items()})
        teachers = [Teacher(generalist.name, generalist.domains, None, {})]
        for expert in experts:
            own = network_name(expert.name)
            if expert.blend:
                apart = sorted(name for name in expert.blend if network_name(name) not in adapters)
                if apart:
                    raise ConfigError(
                        f"method.teachers: `{expert.name}` blends `{apart[0]}`, which is a network of its own; only adapters can be blended"
                    )
                teachers.append(Teacher(expert.name, expert.domains, None, {network_name(n): s for n, s in expert.blend.items()}))
            elif own in adapters:
                teachers.append(Teacher(expert.name, expert.domains, adapters[own], {own: 1.0}))
            else:
                teachers.append(Teacher(expert.name, expert.domains, _whole(expert, roles), None))
        for path in paths.values():
            check_same_encoder(context.encoder, path)
        if config.real_score is not None and (apart := [t.name for t in teachers if t.strengths is None]):
            raise ConfigError(
                f"method.real_score: the fake score's adapter cannot be added to teacher `{apart[0]}`, which is a network of its own; give it as an adapter"
            )
        return cls(teachers, roles, dtype=context.dtype)

    def __len__(self) -> int:
        return len(self._teachers)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(teacher.name for teacher in self._teachers)

    @property
    def domains(self) -> tuple[tuple[str, ...], ...]:
        return tuple(teacher.domains for teacher in self._teachers)

    def networks(self) -> list[Network]:
        """What the experts add to the base."""
        return [Network(network_name(t.name), t.module, trained=False) for t in self._teachers if t.module is not None]

    def hashes(self) -> list[str]:
        """One for each teacher that changes when it would predict otherwise: of what it adds to the base, or of its own network; of a blend, of its parts.
        Weights are hashed as they are held now, so that these are equal to those of another time only in the same type."""
        own = {network_name(t.name): sha256_module(t.module) for t in self._teachers if t.module is not None}
        hashes = [sha256_module(self._roles.base)]
        for teacher in self._teachers[1:]:
            if teacher.module is not None:
                hashes.append(own[network_name(teacher.name)])
            else:
                parts = {name: [own[name], strength] for name, strength in sorted((teacher.strengths or {}).items())}
                hashes.append(hashlib.sha256(json.dumps(parts).encode()).hexdigest())
        return hashes

    def describe(self) -> list[str]:
        kinds = [f"{t.name} ({kind_of(t)})" for t in self._teachers]
        return [f"teachers: {', '.join(kinds)}"]

    @contextmanager
    def teacher(self, k: int, *, lean: float = 0.0) -> Iterator[nn.Module]:
        """The k-th teacher's transformer, ready to compute inside the context.

        Args:
            lean: share of the fake score's adapter that is added to it (DMDR).
        """
        teacher = self._teachers[k]
        if teacher.strengths is None:
            yield cast(nn.Module, teacher.module)
            return
        with self._roles.bank.using(**teacher.strengths, **({FAKE: lean} if lean else {})):
            yield self._roles.base

    @torch.no_grad()
    def predict(self, k: int, x_BCHW: Tensor, sigma_B: Tensor, text: TextEmbeddings, *, lean: float = 0.0) -> Tensor:
        """The k-th teacher's clean samples [B, C, h, w], float32, for noisy latents in float32."""
        with self.teacher(k, lean=lean) as transformer:
            return denoise(transformer, x_BCHW, sigma_B, text, self._dtype)

    def asked(self, *weights: Tensor) -> list[tuple[int, list[int]]]:
        """Which teachers are asked about which samples: those with weight in one of ``weights`` (each [B, K, ...] or [B, K]). Free for weights on the CPU."""
        counts_BK = torch.stack([(w.flatten(2).amax(2) if w.ndim > 2 else w).cpu() for w in weights]).amax(0) > 0
        return [(k, rows) for k in range(len(self)) if (rows := counts_BK[:, k].nonzero()[:, 0].tolist())]


def mix(
    weights: Sequence[Tensor], asked: Sequence[tuple[int, list[int]]], evaluate: Callable[[int, list[int]], Sequence[Tensor]], like: Tensor
) -> list[Tensor]:
    """``sum_k W_k E_k`` in float32, for several outputs of a teacher at once, each under its own weights. Teachers are added in order: always the same sum.

    Args:
        weights: per output, [B, K] or [B, K, 1, h, w].
        asked: see ``Committee.asked``.
        evaluate: ``evaluate(k, rows)``: the outputs for these rows.
        like: a tensor [B, C, h, w] on the device of the result.
    """
    mixed = [like.new_zeros(like.shape, dtype=torch.float32) for _ in weights]
    for k, rows in asked:
        everything = len(rows) == len(like)
        for total, weight, output in zip(mixed, weights, evaluate(k, rows), strict=True):
            share = weight[rows, k].to(total)
            part = (per_sample(share, total) if share.ndim == 1 else share) * output
            if everything:
                total += part
            else:
                total[rows] += part
    return mixed


def kind_of(teacher: Teacher) -> str:
    if teacher.strengths is None:
        return "network"
    return "the base" if not teacher.strengths else "adapter" if teacher.module is not None else "blend"


def network_name(teacher: str) -> str:
    return f"teacher-{teacher}"


def _whole(expert: TeacherConfig, roles: Roles) -> nn.Module:
    """A network of the expert's own."""
    module = load_transformer(str(expert.path), dtype=torch.float32, ops=roles.base.ops)
    where = f"method.teachers: {expert.name}, {expert.path}"
    check_same_architecture(roles.base, module, where=where, names=("student", "teacher"))
    return module
