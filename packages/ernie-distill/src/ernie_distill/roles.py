"""The networks of a distillation and what each is at a moment: one shared base, on it the student's, the fake score's and the experts' adapters by pointer.

Nothing is ever merged: in bfloat16 merging and unmerging drifts. Where all weights of student and fake score are trained they are networks of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ernie_core.adapters.bank import AdapterBank
from ernie_core.api import Network
from ernie_distill.method_config import MtDmdConfig
from ernie_distill.turns import FAKE, STUDENT

if TYPE_CHECKING:
    from torch import nn

    from ernie_core.api import MethodContext

BASE, ENCODER = "transformer", "encoder"


class Roles:
    """
    Args:
        context: of the method: the base is the run's initial weights, and so are student and fake score at the start.
    """

    def __init__(self, config: MtDmdConfig, context: MethodContext) -> None:
        self.base: nn.Module = context.make_transformer()
        self.bank = AdapterBank(self.base)
        self._ema, self._fake_optimizer, self._encoder = context.ema, config.fake_optimizer, context.encoder
        self._modules: dict[str, nn.Module] = {}
        for number, name in enumerate((STUDENT, FAKE)):
            if config.adapter is None:
                self._modules[name] = context.make_transformer()
            else:
                self._modules[name] = self.bank.add(name, config.adapter, seed=context.seed + number)
        self.adapted = config.adapter is not None

    def networks(self) -> list[Network]:
        frozen = [Network(ENCODER, self._encoder, trained=False)] if self._encoder.trainable else []
        return [
            Network(BASE, self.base, trained=False),
            Network(STUDENT, self._modules[STUDENT], ema=self._ema),
            Network(FAKE, self._modules[FAKE], optimizer=self._fake_optimizer),
            *frozen,
        ]

    def deployed(self) -> Mapping[str, str]:
        student = {"transformer": BASE, "adapter": STUDENT} if self.adapted else {"transformer": STUDENT}
        return {**student, **({ENCODER: ENCODER} if self._encoder.trainable else {})}

    def become(self, role: str) -> nn.Module:
        """The transformer as student or as fake score. It stays that until the next call: backward may recompute activations, and must meet the same adapter."""
        if not self.adapted:
            return self._modules[role]
        self.bank.active = {role: 1.0}
        return self.base

    @contextmanager
    def borrowed(self, role: str) -> Iterator[nn.Module]:
        """The same inside the context only, for passes without gradient between others."""
        if not self.adapted:
            yield self._modules[role]
            return
        with self.bank.using(role):
            yield self.base
