"""What frozen networks gave before: latents of pictures and embeddings of prompts, kept in a store that a config selects.

A key is a hash of what the value depends on and of nothing else: the picture's pixels or the prompt's text, and the identity of the network (weights,
type and the options that enter its output). So no other option of a run changes a key, and changed weights change all. The kind of device is left out: devices
agree up to rounding.

Of a codec that draws from a posterior the posterior itself is kept, and the draw is made anew each time, from the same noise as without a store.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from ernie_core.errors import ConfigError
from ernie_core.records import Identified, Record
from ernie_core.text.embeddings import TextEmbeddings, pad_right


class EncodingStore(Protocol):
    """Where tensors are kept. It may lose anything at any time; it must never give another tensor than was put under the key."""

    def get(self, key: str) -> Tensor | None:
        """The tensor, on the CPU."""
        ...

    def put(self, key: str, value: Tensor) -> None: ...


@runtime_checkable
class CachedCodec(Identified, Protocol):
    """A codec whose work can be kept: ``encode(pixels, noise_BCHW=n)`` is ``latents(posterior(pixels), noise_BCHW=n)``, to the bit."""

    def posterior(self, pixels_B3HW: Tensor) -> Tensor:
        """The expensive part, one row per picture."""
        ...

    def latents(self, posterior: Tensor, *, noise_BCHW: Tensor | None = None) -> Tensor:
        """Normalised latents, float32."""
        ...


class Encodings:
    """A store in front of a frozen codec and a frozen encoder.

    Raises:
        ConfigError: neither of them can be cached.
    """

    def __init__(self, store: EncodingStore, codec: Any, encoder: Any) -> None:
        self.store = store
        self.codec: CachedCodec | None = codec if isinstance(codec, CachedCodec) else None
        self.codec_id = codec.identity() if isinstance(codec, CachedCodec) else ""
        self.encoder_id = encoder.identity() if isinstance(encoder, Identified) and not encoder.trainable else ""
        if self.codec is None and not self.encoder_id:
            raise ConfigError(
                "cache: there is nothing to keep: the codec gives no posterior or does not say which weights it has, and the prompt encoder is trained "
                "or does not say so either. Remove `cache`."
            )

    def posteriors(self, records: Sequence[Record], device: torch.device) -> Tensor:
        """The codec's posterior of each picture, in order. Only of a codec that can be cached. No gradient."""
        if self.codec is None:
            raise ValueError("this codec cannot be cached; ask `codec` first")
        codec = self.codec
        keys = [key_of("latent", record.pixels_id, self.codec_id) if record.pixels_id else "" for record in records]

        def encode(numbers: Sequence[int]) -> Sequence[Tensor]:
            return codec.posterior(pixels_of([records[n] for n in numbers], device)).unbind(0)

        with torch.no_grad():
            return torch.stack(self._all(keys, encode, device))

    def text(self, prompts: Sequence[str], encode: Callable[[Sequence[str]], TextEmbeddings], device: torch.device) -> TextEmbeddings:
        """Embeddings of prompts; ``encode`` is asked for those that the store does not have."""
        if not self.encoder_id:
            return encode(prompts)
        distinct = list(dict.fromkeys(prompts))
        keys = [key_of("text", prompt, self.encoder_id) for prompt in distinct]
        rows = dict(zip(distinct, self._all(keys, lambda numbers: encode([distinct[n] for n in numbers]).unpadded(), device)))
        return pad_right([rows[prompt] for prompt in prompts])

    def _all(self, keys: Sequence[str], encode: Callable[[Sequence[int]], Sequence[Tensor]], device: torch.device) -> list[Tensor]:
        """One tensor per key; "" is a key that nothing is kept under."""
        found = [self.store.get(key) if key else None for key in keys]
        missing = [n for n, value in enumerate(found) if value is None]
        if missing:
            for n, value in zip(missing, encode(missing), strict=True):
                found[n] = value
                if keys[n]:
                    self.store.put(keys[n], value.detach().to("cpu"))
        return [value.to(device) for value in found if value is not None]


def key_of(kind: str, what: str, network: str) -> str:
    """sha256, in hex, of the three."""
    return hashlib.sha256(json.dumps([kind, what, network]).encode()).hexdigest()


def pixels_of(records: Sequence[Record], device: torch.device) -> Tensor:
    """[B, 3, H, W] in [-1, 1], float32."""
    pixels_BHW3 = torch.from_numpy(np.stack([record.pixels for record in records])).to(device)
    return pixels_BHW3.permute(0, 3, 1, 2).float() / 127.5 - 1  # in bfloat16 the quotient would lose up to half a grey level
