"""The transformer that a method trains: the whole of it, or an adapter over a frozen base. One object, so that methods need not tell the two apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ernie_core.adapters.bank import AdapterBank
from ernie_core.adapters.config import AdapterConfig
from ernie_core.train.method import Network

if TYPE_CHECKING:
    from torch import nn

    from ernie_core.plugins.hookspecs import MethodContext

TRANSFORMER, ADAPTER = "transformer", "adapter"


class Policy:
    """
    Args:
        context: of the method; the base starts from the run's initial weights.
        adapter: None trains all weights.
    """

    def __init__(self, context: MethodContext, adapter: AdapterConfig | None) -> None:
        self.transformer: nn.Module = context.make_transformer()
        self._ema = context.ema
        self.bank = AdapterBank(self.transformer) if adapter is not None else None
        self.adapter = self.bank.add(ADAPTER, adapter, seed=context.seed) if self.bank is not None and adapter is not None else None
        if self.bank is not None:
            self.bank.active = {ADAPTER: 1.0}  # but for `base`: a method's loss returns before backward, which may recompute activations

    def networks(self) -> list[Network]:
        if self.adapter is None:
            return [Network(TRANSFORMER, self.transformer, ema=self._ema)]
        return [Network(TRANSFORMER, self.transformer, trained=False), Network(ADAPTER, self.adapter, ema=self._ema)]

    @property
    def trains(self) -> tuple[str, ...]:
        """Names of the networks that learn."""
        return (TRANSFORMER,) if self.adapter is None else (ADAPTER,)

    def deployed(self) -> Mapping[str, str]:
        """What users sample from: the transformer, with the adapter added to it where there is one."""
        return {TRANSFORMER: TRANSFORMER} if self.adapter is None else {TRANSFORMER: TRANSFORMER, ADAPTER: ADAPTER}

    @contextmanager
    def tuned(self) -> Iterator[nn.Module]:
        """The transformer as it is being trained, as it also is outside of ``base``: recomputed activations look at the adapter again in backward."""
        if self.bank is None:
            yield self.transformer
        else:
            with self.bank.using(ADAPTER):
                yield self.transformer

    @contextmanager
    def base(self) -> Iterator[nn.Module]:
        """The frozen base, adapter off, to the bit.

        Raises:
            RuntimeError: all weights are trained, so there is no base any more.
        """
        if self.bank is None:
            raise RuntimeError("a policy without an adapter has no base: keep a frozen copy")
        with self.bank.using():
            yield self.transformer
