"""The stage ``rewrite`` and its backends. Light: no torch.

.. code-block:: toml

    [[stages]]
    use = "rewrite"
    backend = "server"
    server = { url = "http://127.0.0.1:8000/v1", model = "Qwen/Qwen3-8B" }
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta

from ernie_core.api import Config, Count, Entry, PositiveInt
from ernie_core.chat import ChatServer
from ernie_data.vision.entries import Commit


class RewriteServerConfig(ChatServer):
    """A language model behind an OpenAI-compatible server. Costs and limits count per process."""


class RewriteTransformersConfig(Config):
    """A causal language model run by transformers, greedily."""

    path: str
    """A model's folder, or a hub id together with ``revision``."""
    revision: Commit | None = None
    """The commit of a hub id, in full."""
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    device: Annotated[str, Meta(pattern=r"^(auto|cpu|cuda(:[0-9]+)?)$")] = "auto"
    max_new_tokens: PositiveInt = 2048


ModelConfig: TypeAlias = RewriteServerConfig | RewriteTransformersConfig


class RewriteConfig(Config):
    """``use = "rewrite"``: four prompt styles of every caption: keywords, request, instruction, composition.

    Source is the structured caption if there is one (column ``caption``), else the caption of the style ``source``. Training draws one of a record's
    captions anew for each sample, evenly over its styles, by the run's counter-based randomness: nothing is fixed here but what there is to draw from.
    """

    backend: Literal["rules", "server", "transformers"] = "rules"
    """``rules`` need no model and know English and Chinese; captions in other languages are taken over as they are."""
    server: RewriteServerConfig | None = None
    transformers: RewriteTransformersConfig | None = None
    source: str = ""
    """Style of the caption that is rewritten. Default: ``text``, else ``composition``, else the longest."""
    keep_original: bool = True
    """Keep the source's captions of other styles than these four: training draws from them as well. All of them stand in ``original_captions``."""
    retries: Annotated[Count, Meta(le=2)] = 2
    """How often a model is asked again after an answer that breaks the contract."""
    max_characters: Annotated[int, Meta(ge=200, le=16000)] = 6000
    """Of a caption that is given to a model, and of each style that one answers with. Rules have no use for a limit."""
    seed: int = 0
    """Of the wordings that the rules draw, per record."""

    def __post_init__(self) -> None:
        for name, options in (("server", self.server), ("transformers", self.transformers)):
            if self.backend == name and options is None:
                raise ValueError(f'backend = "{name}" needs a table `{name}` that says which model')
            if self.backend != name and options is not None:
                raise ValueError(f'the table `{name}` belongs to backend = "{name}", found backend = "{self.backend}"')

    @property
    def model(self) -> ModelConfig | None:
        """The model's options; None: rules."""
        return self.server if self.server is not None else self.transformers


STAGES = (Entry("rewrite", "captions in four prompt styles, quoted text verbatim", RewriteConfig, "ernie_data.rewriting.stage:build"),)
