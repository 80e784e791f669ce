r"""The ``ministral3`` prompt encoder: the frozen language model of a released pipeline.

A prompt's embedding is the output of the last layer but one, before the last layer and before the final norm (``hidden_states[-2]`` of the whole model). So the
last layer, the final norm and the vision tower are dropped after loading, in memory only.

Attention is causal and prompts are padded on the right, so padding comes after every real token and none of them sees it: a batch gives what one prompt at
a time gives, without a mask. What the model writes into padding is replaced by zeros.
"""

from __future__ import annotations

import hashlib
import json
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ernie_core.errors import WeightsError
from ernie_core.model.fingerprint import sha256_module
from ernie_core.model.load import read_json
from ernie_core.model.tensor_files import TensorFiles
from ernie_core.plugins.hookspecs import EncoderContext
from ernie_core.text.embeddings import TextEmbeddings, pad_right
from ernie_core.text.entries import Ministral3Config
from ernie_core.text.truncation import TruncationWarning, cut_message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MODEL_TYPES = ("ministral3", "mistral3")  # the language model alone, or with a vision tower as released
STEM = "model"
NO_LIMIT = 1 << 30  # transformers gives tokenizers without a limit an absurdly large one


class Ministral3Encoder:
    """Prompts -> ``TextEmbeddings``, without gradient. "" is encoded once and remembered; it is one BOS token.

    Args:
        language_model: a Ministral3Model already cut by ``without_last_layer``.
        tokenizer: the pipeline's; its ``model_max_length`` limits a prompt.
        batch_size: prompts per forward pass; prompts of similar length share one.
    """

    trainable = False

    def __init__(self, language_model: nn.Module, tokenizer: PreTrainedTokenizerBase, *, batch_size: int) -> None:
        self.language_model = language_model
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.width: int = language_model.config.hidden_size
        self._empty_TE: Tensor | None = None

    def encode(self, prompts: Sequence[str]) -> TextEmbeddings:
        """Embeddings of at least one prompt. Too long prompts are cut, with a ``TruncationWarning`` that counts them."""
        rows: list[Tensor | None] = [self._empty() if prompt == "" else None for prompt in prompts]
        open_rows = [b for b, row in enumerate(rows) if row is None]
        if open_rows:
            ids = self._tokenize([prompts[b] for b in open_rows])
            for b, row_TE in zip(open_rows, self._hidden(ids)):
                rows[b] = row_TE
        return pad_right([row for row in rows if row is not None])

    def identity(self) -> str:
        """Weights, type and architecture of the language model, and the tokenizer with its limit. Not ``batch_size``, which enters no embedding."""
        model, tokenizer = self.language_model, self.tokenizer
        model_config = {
            name: value for name, value in model.config.to_dict().items() if name not in ("transformers_version", "_name_or_path")
        }
        # How it cuts and pads is set anew by each call, so that this would change with the first prompt; the limit is named below.
        rules = {
            name: value for name, value in json.loads(tokenizer.backend_tokenizer.to_str()).items() if name not in ("truncation", "padding")
        }
        words = [json.dumps(model_config, sort_keys=True, default=str), json.dumps(rules, sort_keys=True), str(tokenizer.bos_token_id)]
        sums = hashlib.sha256("\0".join(words).encode()).hexdigest()
        return f"ministral3 1 {model.dtype} {sha256_module(model)} {sums} {tokenizer.model_max_length}"

    def _empty(self) -> Tensor:
        if self._empty_TE is None:
            (self._empty_TE,) = self._hidden(self._tokenize([""]))
        return self._empty_TE

    def _tokenize(self, prompts: Sequence[str]) -> list[list[int]]:
        """Token ids as the released pipeline makes them: special tokens added, cut at the tokenizer's limit, and never empty."""
        limit = self.tokenizer.model_max_length
        limited = limit < NO_LIMIT
        start = self.tokenizer.bos_token_id
        all_ids, excess = [], []
        for prompt in prompts:
            ids = self.tokenizer(prompt, add_special_tokens=True, truncation=limited, padding=False)["input_ids"]
            if limited and len(ids) >= limit:
                whole = self.tokenizer(prompt, add_special_tokens=True, truncation=False, padding=False, verbose=False)["input_ids"]
                if len(whole) > len(ids):
                    excess.append(len(whole) - len(ids))
            all_ids.append(ids or [0 if start is None else start])
        if excess:
            warnings.warn(cut_message(excess, total=len(prompts), limit=limit), TruncationWarning, stacklevel=3)
        return all_ids

    @torch.no_grad()
    def _hidden(self, all_ids: Sequence[Sequence[int]]) -> list[Tensor]:
        """Embeddings [T_b, E] of each row of ids, in their order."""
        rows: list[Tensor | None] = [None] * len(all_ids)
        by_length = sorted(range(len(all_ids)), key=lambda b: len(all_ids[b]))
        device = self.language_model.get_input_embeddings().weight.device
        for first in range(0, len(by_length), self.batch_size):
            group = by_length[first : first + self.batch_size]
            width = max(len(all_ids[b]) for b in group)
            ids_BT = torch.tensor([[*all_ids[b], *[0] * (width - len(all_ids[b]))] for b in group], device=device)
            hidden_BTE = self.language_model(input_ids=ids_BT, use_cache=False).last_hidden_state
            for b, row_TE in zip(group, hidden_BTE):
                rows[b] = row_TE[: len(all_ids[b])]
        return [row for row in rows if row is not None]


def without_last_layer(model: nn.Module) -> nn.Module:
    """The language model of a Mistral3Model or Ministral3Model, cut in place so that its output is what ``hidden_states[-2]`` was."""
    language_model = model.language_model if hasattr(model, "language_model") else model
    language_model.layers = language_model.layers[:-1]
    language_model.config.num_hidden_layers = len(language_model.layers)
    language_model.norm = nn.Identity()
    return language_model


def build_ministral3(config: Ministral3Config, context: EncoderContext) -> Ministral3Encoder:
    """Read encoder and tokenizer from disk. Nothing is downloaded, no code of the folder is run, and pickles are refused.

    Raises:
        WeightsError: missing or damaged files, or another kind of model.
    """
    root = Path(config.path)
    folder, tokenizer_folder = root / "text_encoder", root / "tokenizer"
    for part in (folder / "config.json", tokenizer_folder / "tokenizer_config.json"):
        if not part.is_file():
            raise WeightsError(f"{part}: missing; expected a pipeline folder with text_encoder and tokenizer")
    found = read_json(folder / "config.json").get("model_type")
    if found not in MODEL_TYPES:
        raise WeightsError(f"{folder / 'config.json'}: model_type {found!r}, expected one of {', '.join(MODEL_TYPES)}")
    TensorFiles.open(folder, STEM)  # refuses pickles, missing shards and damaged files, with the file's name

    from transformers import AutoModel, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(tokenizer_folder), local_files_only=True, trust_remote_code=False)
        with _progress_only_on_a_terminal():
            model, report = AutoModel.from_pretrained(
                str(folder),
                dtype=context.dtype,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
            )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise WeightsError(f"{root}: the text encoder or its tokenizer cannot be read: {error}") from error
    if report["missing_keys"] or report["mismatched_keys"]:
        names = sorted(map(str, (*report["missing_keys"], *report["mismatched_keys"])))
        raise WeightsError(f"{folder}: {len(names)} tensors are missing or have another shape, among them {', '.join(names[:10])}")
    language_model = without_last_layer(model)
    language_model.to(context.device).eval().requires_grad_(False)
    return Ministral3Encoder(language_model, tokenizer, batch_size=config.batch_size)


@contextmanager
def _progress_only_on_a_terminal() -> Iterator[None]:
    """transformers draws its loading bar into log files too."""
    from transformers.utils import logging

    switch_off = not sys.stderr.isatty() and logging.is_progress_bar_enabled()
    if switch_off:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if switch_off:
            logging.enable_progress_bar()
