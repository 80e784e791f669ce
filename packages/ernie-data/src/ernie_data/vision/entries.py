"""Options of the vision backends. Light: no torch, no Pillow.

A stage takes either with a field of the type ``VisionConfig``:

.. code-block:: toml

    backend = { use = "server", url = "http://127.0.0.1:8000/v1", model = "Qwen/Qwen3-VL-8B-Instruct" }
    backend = { use = "transformers", path = "models/Qwen3-VL-8B-Instruct" }
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta

from ernie_core.api import Config, PositiveInt
from ernie_core.chat import ChatServer

Commit = Annotated[str, Meta(pattern=r"^[0-9a-f]{40}$")]


class VisionServerConfig(ChatServer, tag_field="use", tag="server"):
    """A vision-language model behind an OpenAI-compatible server. Costs and limits count per process."""

    side_px: PositiveInt = 1536
    """Pictures with a longer side are reduced to it before they are sent; all are encoded anew, without their metadata."""


class VisionTransformersConfig(Config, tag_field="use", tag="transformers"):
    """A Qwen3-VL model run by transformers. Decoding is greedy, so that an answer is a function of the picture."""

    path: str
    """A model's folder, or a hub id such as ``Qwen/Qwen3-VL-8B-Instruct`` together with ``revision``."""
    revision: Commit | None = None
    """The commit of a hub id, in full: a branch or a tag may change."""
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    device: Annotated[str, Meta(pattern=r"^(auto|cpu|cuda(:[0-9]+)?)$")] = "auto"
    """"auto": the first CUDA device if there is one, else the CPU."""
    batch_size: PositiveInt = 1
    """Pictures per forward pass. More is faster, but rounding then depends on which pictures share a pass, and in rare cases so does an answer."""
    max_new_tokens: PositiveInt = 1024
    """A longer answer is an error, since its end is missing."""
    side_px: PositiveInt = 1536
    """Pictures with a longer side are reduced to it."""


VisionConfig: TypeAlias = VisionServerConfig | VisionTransformersConfig
