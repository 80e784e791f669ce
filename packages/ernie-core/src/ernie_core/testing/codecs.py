"""Contracts of image codecs and prompt encoders. Needs torch, no pytest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ernie_core.errors import ErnieError
from ernie_core.plugins.hookspecs import CodecContext, EncoderContext
from ernie_core.testing.component import ComponentContract
from ernie_core.testing.pure import normal


class CodecContract(ComponentContract):
    """``encode(pixels_B3HW in [-1, 1]) -> latents_BCHW``, without gradient, and ``decode`` back, with it: rewards on pictures train through it.

    Set ``entry`` and ``options``, or override ``make`` where the codec needs files.

    Attributes:
        round_trip_tolerance: largest error of decode(encode(pixels)) on random pixels; None for a lossy codec.
        tokens: rows and columns of latents to try with, not square, so that swapped axes show.
    """

    registry: ClassVar[str] = "codecs"
    round_trip_tolerance: ClassVar[float | None] = None
    batch_tolerance: ClassVar[float] = 1e-4
    tokens: ClassVar[tuple[int, int]] = (2, 3)

    def make(self) -> Any:
        return self.build(CodecContext(device=torch.device("cpu"), dtype=torch.float32))

    def pixels(self, codec: Any, *, batch: int = 2) -> Tensor:
        rows, columns = self.tokens
        return normal(batch, 3, rows * codec.pixels_per_token, columns * codec.pixels_per_token, seed=1).clamp(-1, 1)

    def test_shapes_there_and_back(self):
        codec = self.make()
        pixels_B3HW = self.pixels(codec)
        latents_BCHW = codec.encode(pixels_B3HW)
        assert tuple(latents_BCHW.shape) == (2, codec.channels, *self.tokens)
        assert codec.decode(latents_BCHW).shape == pixels_B3HW.shape
        assert torch.isfinite(latents_BCHW).all()

    def test_the_mode_is_repeatable(self):
        codec = self.make()
        pixels_B3HW = self.pixels(codec)
        assert torch.equal(codec.encode(pixels_B3HW), codec.encode(pixels_B3HW))
        latents_BCHW = codec.encode(pixels_B3HW)
        assert torch.equal(codec.decode(latents_BCHW), codec.decode(latents_BCHW))

    def test_noise_is_used_exactly_if_it_says_so(self):
        codec = self.make()
        pixels_B3HW = self.pixels(codec)
        mode = codec.encode(pixels_B3HW)
        draws = [codec.encode(pixels_B3HW, noise_BCHW=normal(*mode.shape, seed=seed)) for seed in (2, 2, 3)]
        assert torch.equal(draws[0], draws[1])
        if codec.posterior_noise:
            assert not torch.equal(draws[0], draws[2])
            torch.testing.assert_close(codec.encode(pixels_B3HW, noise_BCHW=torch.zeros_like(mode)), mode, rtol=1e-5, atol=1e-5)
        else:
            assert torch.equal(draws[0], mode)

    def test_a_picture_does_not_depend_on_its_batch(self):
        codec = self.make()
        pixels_B3HW = self.pixels(codec)
        together, alone = codec.encode(pixels_B3HW), codec.encode(pixels_B3HW[1:])
        torch.testing.assert_close(alone[0], together[1], rtol=self.batch_tolerance, atol=self.batch_tolerance)

    def test_round_trip(self):
        if self.round_trip_tolerance is not None:
            codec = self.make()
            pixels_B3HW = self.pixels(codec)
            assert (codec.decode(codec.encode(pixels_B3HW)) - pixels_B3HW).abs().max() <= self.round_trip_tolerance

    def test_a_gradient_on_pixels_reaches_the_latents(self):
        codec = self.make()
        latents_BCHW = codec.encode(self.pixels(codec)).detach().requires_grad_()
        pixels_B3HW = codec.decode(latents_BCHW)
        assert pixels_B3HW.requires_grad, "a reward on pictures would move nothing"
        (pixels_B3HW * normal(*pixels_B3HW.shape, seed=4)).sum().backward()
        assert torch.isfinite(latents_BCHW.grad).all()
        assert (latents_BCHW.grad.abs().amax((1, 2, 3)) > 0).all()

    def test_sides_that_do_not_fit_are_refused(self):
        codec = self.make()
        if codec.pixels_per_token == 1:
            return
        rows, columns = self.tokens
        message = "accepted"
        try:
            codec.encode(torch.zeros(1, 3, rows * codec.pixels_per_token + 1, columns * codec.pixels_per_token))
        except ErnieError as error:
            message = str(error)
        assert str(codec.pixels_per_token) in message, f"expected an error that says of what the sides must be multiples: {message}"


class PromptEncoderContract(ComponentContract):
    """``encode(prompts) -> TextEmbeddings``: right-padded with zeros, lengths as Python ints, each prompt on its own.

    Set ``entry`` and ``options``, or override ``make`` where the encoder needs files.
    """

    registry: ClassVar[str] = "tokenizers"
    tolerance: ClassVar[float] = 1e-5
    prompts: ClassVar[Sequence[str]] = (
        "a red circle",
        "",
        "左上角有一个蓝色的三角形。",
        "naïve café 🙂",
        "a red circle, left of a blue square and a green star",
    )

    def make(self, *, seed: int = 0) -> Any:
        return self.build(EncoderContext(device=torch.device("cpu"), dtype=torch.float32, seed=seed))

    def test_shape_lengths_and_zero_padding(self):
        encoder = self.make()
        text = encoder.encode(self.prompts)
        assert tuple(text.text_BTE.shape) == (len(self.prompts), max(text.lens), encoder.width)
        assert all(type(length) is int and length >= 1 for length in text.lens), "every prompt, also the empty one, is at least one token"
        for row_TE, length in zip(text.text_BTE, text.lens, strict=True):
            assert (row_TE[length:] == 0).all()
            assert row_TE[:length].abs().sum(-1).min() > 0

    def test_a_prompt_does_not_depend_on_its_batch(self):
        encoder = self.make()
        together = encoder.encode(self.prompts)
        for b, prompt in enumerate(self.prompts):
            alone = encoder.encode([prompt])
            assert alone.lens == (together.lens[b],)
            torch.testing.assert_close(
                alone.text_BTE[0], together.text_BTE[b, : together.lens[b]], rtol=self.tolerance, atol=self.tolerance
            )

    def test_equal_prompts_get_equal_embeddings_and_others_do_not(self):
        encoder = self.make()
        text = encoder.encode(["a red circle", "a blue circle", "a red circle"])
        torch.testing.assert_close(text.text_BTE[0], text.text_BTE[2], rtol=self.tolerance, atol=self.tolerance)
        assert not torch.equal(text.text_BTE[0], text.text_BTE[1])

    def test_the_order_of_words_or_their_letters_matters(self):
        text = self.make().encode(["red left of blue", "blue left of red"])
        assert not torch.equal(text.text_BTE[0], text.text_BTE[1])

    def test_the_same_seed_gives_the_same_encoder(self):
        one, two = (self.make(seed=3).encode(self.prompts).text_BTE for _ in range(2))
        assert torch.equal(one, two)

    def test_a_trainable_encoder_is_a_module_that_learns_and_a_frozen_one_carries_no_gradient(self):
        encoder = self.make()
        text = encoder.encode(self.prompts)
        if not encoder.trainable:
            assert not text.text_BTE.requires_grad
            return
        assert isinstance(encoder, nn.Module)
        (text.text_BTE * normal(*text.text_BTE.shape, seed=5)).sum().backward()
        for name, parameter in encoder.named_parameters():
            assert parameter.grad is not None, f"no gradient reaches {name}"
            assert torch.isfinite(parameter.grad).all()
            assert parameter.grad.abs().max() > 0, f"the gradient of {name} is zero"
