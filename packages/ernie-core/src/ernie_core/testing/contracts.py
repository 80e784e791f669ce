"""Contract classes: the laws a component must keep, as tests that an author subclasses. The same classes test core's own components.

.. code-block:: python

    from ernie_core.testing.contracts import SamplerContract

    class TestMidpoint(SamplerContract):
        entry = "midpoint"
        order = 2
        calls_per_step = 2

pytest collects the subclass because of its name; the contracts themselves use plain asserts and import no pytest. ``ernie_core.testing.data``
and ``ernie_core.testing.judging`` are the light half: they import no torch.
"""

from ernie_core.testing.blocks import BlockContract, OpSetContract
from ernie_core.testing.codecs import CodecContract, PromptEncoderContract
from ernie_core.testing.component import ComponentContract
from ernie_core.testing.data import DataSourceContract
from ernie_core.testing.judging import EvaluationContract, ScorerContract
from ernie_core.testing.pure import DensityContract, FlowLossContract, GaussianFlow, SamplerContract

__all__ = [
    "BlockContract",
    "CodecContract",
    "ComponentContract",
    "DataSourceContract",
    "DensityContract",
    "EvaluationContract",
    "FlowLossContract",
    "GaussianFlow",
    "OpSetContract",
    "PromptEncoderContract",
    "SamplerContract",
    "ScorerContract",
]
