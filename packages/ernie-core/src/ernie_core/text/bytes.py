r"""The ``bytes`` prompt encoder: UTF-8 bytes summed into words, a small network per word, trained with the model.

A word's bytes b_1 .. b_n become  n^(-1/2) sum_j table[j, b_j]:  each byte has an embedding per place in the word, so that anagrams differ, and no word shares
another's by hashing. A residual network makes it non-linear, and a masked convolution lets neighbouring words see each other. Word order is the model's
business: its rotary embedding gives every text token its place.

The sum over bytes follows the n-gram sums of Bojanowski et al. 2017 (arXiv 1607.04606), with places instead of n-grams.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ernie_core.plugins.hookspecs import EncoderContext
from ernie_core.rng import Draws, Rng
from ernie_core.text.embeddings import TextEmbeddings
from ernie_core.text.entries import BytesConfig
from ernie_core.text.truncation import TruncationWarning, cut_message
from ernie_core.text.words import Piece, split_words

MIXER_WIDTH = 5  # tokens a mixer layer sees: two to either side
PROMPTS_REMEMBERED = 1 << 14


class BytesEncoder(nn.Module):
    """Prompts -> ``TextEmbeddings``: one token per word, E = ``config.width``; "" is one learned token.

    A prompt's embedding does not depend on the other prompts of its batch. Longer prompts than ``max_tokens`` are cut, with a ``TruncationWarning``.
    """

    trainable = True

    def __init__(self, config: BytesConfig, *, seed: int, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        self.config = config
        self.width = config.width
        self.padding_index = 256 * config.word_bytes
        with torch.device("meta"):  # so that torch's own initialisation draws nothing from the global generator
            self.table = nn.Embedding(self.padding_index + 1, config.byte_width, padding_idx=self.padding_index)
            self.word_in = nn.Linear(config.byte_width, config.width)
            self.word_norm = nn.LayerNorm(config.width)
            self.word_up = nn.Linear(config.width, 2 * config.width)
            self.word_down = nn.Linear(2 * config.width, config.width)
            self.mixers = nn.ModuleList(Mixer(config.width) for _ in range(config.mixer_layers))
            self.norm = nn.LayerNorm(config.width)
            self.start_E = nn.Parameter(torch.empty(config.width))
            self.glued_E = nn.Parameter(torch.empty(config.width))
        self.to_empty(device=device)
        self.to(dtype)
        self._initialise(Rng(seed).at("init.bytes_encoder", 0))
        self._split = lru_cache(PROMPTS_REMEMBERED)(lambda prompt: split_words(prompt, config.word_bytes))

    def encode(self, prompts: Sequence[str]) -> TextEmbeddings:
        """Embeddings of at least one prompt, with gradient."""
        rows = self._split_all(prompts)
        lens = tuple(max(len(pieces), 1) for pieces in rows)
        words = list(dict.fromkeys(piece.data for pieces in rows for piece in pieces))  # a batch of captions repeats most of its words
        word_number = {word: number for number, word in enumerate(words)}

        B, T, device = len(rows), max(lens), self.start_E.device
        numbers = torch.full((B, T), len(words), dtype=torch.int64)
        glued = torch.zeros(B, T, 1, dtype=self.start_E.dtype)
        for b, pieces in enumerate(rows):
            numbers[b, : len(pieces)] = torch.tensor([word_number[piece.data] for piece in pieces], dtype=torch.int64)
            glued[b, : len(pieces), 0] = torch.tensor([piece.glued for piece in pieces], dtype=glued.dtype)
        real_BT1 = (torch.arange(T) < torch.tensor(lens)[:, None])[..., None].to(device)

        vectors_WE = torch.cat([self._embed_words(words), self.start_E[None]])  # the last one stands for "" and, masked below, for padding
        text_BTE = F.embedding(numbers.to(device), vectors_WE) + glued.to(device) * self.glued_E
        for mixer in self.mixers:
            text_BTE = mixer(text_BTE, real_BT1)
        return TextEmbeddings(self.norm(text_BTE) * real_BT1, lens)

    def _split_all(self, prompts: Sequence[str]) -> list[tuple[Piece, ...]]:
        rows = [self._split(prompt) for prompt in prompts]
        limit = self.config.max_tokens
        excess = [len(pieces) - limit for pieces in rows if len(pieces) > limit]
        if excess:
            warnings.warn(cut_message(excess, total=len(rows), limit=limit), TruncationWarning, stacklevel=3)
        return [pieces[:limit] for pieces in rows]

    def _embed_words(self, words: Sequence[bytes]) -> Tensor:
        """[W, E] of distinct words."""
        indices = torch.full((len(words), self.config.word_bytes), self.padding_index, dtype=torch.int64)
        for number, word in enumerate(words):
            indices[number, : len(word)] = torch.arange(len(word)) * 256 + torch.tensor(list(word), dtype=torch.int64)
        scale_W1 = torch.tensor([[len(word) ** -0.5] for word in words], dtype=self.start_E.dtype).reshape(-1, 1)
        device = self.start_E.device
        x_WE = self.word_in(self.table(indices.to(device)).sum(1) * scale_W1.to(device))
        return x_WE + self.word_down(F.gelu(self.word_up(self.word_norm(x_WE))))

    @torch.no_grad()
    def _initialise(self, draws: Draws) -> None:
        """Unit-variance activations throughout. Draws are keyed by the parameter's place and made on the CPU: the same on every device."""
        for index, (name, parameter) in enumerate(self.named_parameters()):
            if name.endswith("norm.weight"):
                parameter.fill_(1)
            elif name.endswith("bias"):
                parameter.zero_()
            else:
                fan_in = 1 if parameter.ndim == 1 or name == "table.weight" else math.prod(parameter.shape[1:])
                parameter.copy_(torch.from_numpy(draws.normal(index, parameter.shape)) / math.sqrt(fan_in))
        self.table.weight[self.padding_index] = 0


class Mixer(nn.Module):
    """``x + linear(gelu(conv(norm(x))))``, the convolution depthwise over the tokens of one prompt only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.conv = nn.Conv1d(width, width, MIXER_WIDTH, padding=MIXER_WIDTH // 2, groups=width)
        self.linear = nn.Linear(width, width)

    def forward(self, x_BTE: Tensor, real_BT1: Tensor) -> Tensor:
        """``real_BT1``: True for tokens that are not padding; padding enters the convolution as zeros, as the ends of a prompt do."""
        mixed_BET = self.conv((self.norm(x_BTE) * real_BT1).transpose(1, 2))
        return x_BTE + self.linear(F.gelu(mixed_BET.transpose(1, 2)))


def build_bytes(config: BytesConfig, context: EncoderContext) -> BytesEncoder:
    return BytesEncoder(config, seed=context.seed, device=context.device, dtype=context.dtype)
