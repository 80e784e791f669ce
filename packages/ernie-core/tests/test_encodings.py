"""What frozen networks gave before: found again bit for bit, encoded once, and under keys that change with the value and with nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from ernie_core.errors import ConfigError
from ernie_core.flow.matching import encode_pixels
from ernie_core.records import Identified, Record, Stage
from ernie_core.rng import Rng
from ernie_core.text.embeddings import TextEmbeddings, pad_right
from ernie_core.train.encodings import Encodings, key_of
from ernie_core.train.method import Part

CPU = torch.device("cpu")


@dataclass
class Store:
    kept: dict[str, torch.Tensor] = field(default_factory=dict)

    def get(self, key):
        return self.kept.get(key)

    def put(self, key, value):
        assert key not in self.kept, "encoded although it was kept"
        self.kept[key] = value


class Codec:
    """Mean is 2 x 2 sums, deviation the picture's own; counts what it encodes."""

    posterior_noise, pixels_per_token, channels = True, 2, 3

    def __init__(self, weight=1.0):
        self.weight, self.encoded = weight, 0

    def identity(self):
        return f"codec {self.weight}"

    def posterior(self, pixels_B3HW):
        self.encoded += len(pixels_B3HW)
        mean = torch.nn.functional.avg_pool2d(pixels_B3HW, 2) * self.weight
        return torch.cat([mean, mean.abs()], 1)

    def latents(self, posterior, *, noise_BCHW=None):
        mean, std = posterior.chunk(2, 1)
        return mean if noise_BCHW is None else mean + std * noise_BCHW

    def encode(self, pixels_B3HW, *, noise_BCHW=None):
        return self.latents(self.posterior(pixels_B3HW), noise_BCHW=noise_BCHW)


class Encoder:
    trainable = False

    def __init__(self):
        self.asked = []

    def identity(self):
        return "encoder 1"

    def encode(self, prompts) -> TextEmbeddings:
        self.asked.extend(prompts)
        return pad_right([torch.full((len(p) + 1, 4), float(len(p))) for p in prompts])


class Trained(Encoder):
    trainable = True


class Nameless:
    trainable = False
    posterior_noise = False


def part(numbers, ids=True):
    records = [
        Record(str(n), np.full((4, 6, 3), 10 * n, np.uint8), {"text": "a"}, (6, 4), pixels_id=f"p{n}" if ids else "") for n in numbers
    ]
    return Part(records, tuple(range(len(records))), Stage(size_px=8, steps=1, batch_size=len(records)))


def encode(some, codec, encodings, step=0):
    return encode_pixels(some, codec, Rng(0).at("posterior", step), CPU, torch.float32, encodings)


def test_kept_latents_are_those_of_encoding_to_the_bit_and_posterior_noise_is_drawn_anew():
    codec, store = Codec(), Store()
    encodings = Encodings(store, codec, Encoder())
    for step, numbers in enumerate([(1, 2, 3), (3, 1, 4), (1, 2, 3)]):
        assert torch.equal(encode(part(numbers), codec, encodings, step), encode(part(numbers), Codec(), None, step))
    assert codec.encoded == 4
    assert len(store.kept) == 4
    first, again = (encode(part((1, 2)), codec, encodings, step) for step in (0, 1))
    assert not torch.equal(first, again)


def test_a_picture_of_unknown_content_is_encoded_each_time_and_never_kept():
    codec, store = Codec(), Store()
    encodings = Encodings(store, codec, Encoder())
    for _ in range(2):
        assert torch.equal(encode(part((1, 2), ids=False), codec, encodings), encode(part((1, 2)), Codec(), None))
    assert codec.encoded == 4
    assert not store.kept


def test_prompts_are_encoded_once_whatever_their_batch():
    encoder, store = Encoder(), Store()
    encodings = Encodings(store, Codec(), encoder)
    for prompts in (["ab", "", "ab"], ["", "abc"], ["abc", "ab"]):
        found, expected = encodings.text(prompts, encoder.encode, CPU), Encoder().encode(prompts)
        assert found.lens == expected.lens
        assert torch.equal(found.text_BTE, expected.text_BTE)
    assert encoder.asked == ["ab", "", "abc"]


def test_keys_change_with_the_value_and_with_nothing_else():
    keys = {
        key_of("latent", "p1", "codec 1"),
        key_of("latent", "p1", "codec 2"),
        key_of("latent", "p2", "codec 1"),
        key_of("text", "p1", "codec 1"),
    }
    assert len(keys) == 4
    one, other = Store(), Store()
    encode(part((1, 2)), Codec(), Encodings(one, Codec(), Encoder()), step=5)
    encode(part((2, 1)), Codec(), Encodings(other, Codec(), Trained()), step=9)
    assert one.kept.keys() == other.kept.keys()
    encode(part((1, 2)), Codec(2.0), Encodings(other, Codec(2.0), Encoder()))
    assert len(other.kept) == 4, "other weights, other keys"


def test_a_trained_encoder_and_a_codec_without_a_posterior_are_never_kept():
    store = Store()
    encodings = Encodings(store, Codec(), Trained())
    encodings.text(["a"], Trained().encode, CPU)
    assert not store.kept
    assert Encodings(store, Nameless(), Encoder()).codec is None
    with pytest.raises(ConfigError, match=r"cache: there is nothing to keep"):
        Encodings(store, Nameless(), Trained())


def test_having_an_identity_is_optional():
    assert isinstance(Codec(), Identified)
    assert not isinstance(Nameless(), Identified)
