"""The rewriting backend ``transformers``: a causal language model run in this process, greedily, one caption at a time.

One at a time since an answer must not depend on which captions share a pass: a unit of work has the same output wherever and however often it is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from ernie_core.api import ConfigError, WeightsError, recheck
from ernie_core.model.tensor_files import TensorFiles
from ernie_data.devices import usable_device
from ernie_data.rewriting.contract import Broken, RewriteReason
from ernie_data.rewriting.entries import RewriteTransformersConfig


class TransformersModel:
    """``LanguageModel`` over a causal language model; ``build_transformers`` loads one."""

    def __init__(self, model: nn.Module, tokenizer: PreTrainedTokenizerBase, *, max_new_tokens: int) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._max_new_tokens = max_new_tokens
        found = model.generation_config.eos_token_id
        self._ends = tuple(found) if isinstance(found, (list, tuple)) else (tokenizer.eos_token_id if found is None else found,)
        padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self._ends[0]
        # Replaces the checkpoint's own, whose sampling and penalties would otherwise fill what is left open here.
        model.generation_config = GenerationConfig(
            do_sample=False, num_beams=1, max_new_tokens=max_new_tokens, eos_token_id=list(self._ends), pad_token_id=padding
        )

    def answers(self, prompts: Sequence[str]) -> list[str | Broken]:
        return [self._answer(prompt) for prompt in prompts]

    @torch.inference_mode()
    def _answer(self, prompt: str) -> str | Broken:
        if self._tokenizer.chat_template:
            messages = [{"role": "user", "content": prompt}]
            text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        else:
            ids = self._tokenizer(prompt)["input_ids"]
        longest = self._model.config.get_text_config().max_position_embeddings
        if len(ids) + self._max_new_tokens > longest:
            detail = f"{len(ids)} tokens and max_new_tokens = {self._max_new_tokens} are more than the model's {longest}"
            return Broken(RewriteReason.TOO_LONG, detail)
        ids_1T = torch.tensor([ids], device=next(self._model.parameters()).device)
        new = self._model.generate(input_ids=ids_1T, attention_mask=torch.ones_like(ids_1T))[0, len(ids) :].tolist()
        end = next((place for place, token in enumerate(new) if token in self._ends), None)
        if end is None:
            return Broken(RewriteReason.TOO_LONG, f"no end within max_new_tokens = {self._max_new_tokens}")
        return self._tokenizer.decode(new[:end], skip_special_tokens=True)


def build_transformers(config: RewriteTransformersConfig) -> TransformersModel:
    """Load model and tokenizer. No code that came with them is run, and pickles are refused.

    Raises:
        ConfigError: neither a folder nor a hub id with a revision, or a device that is not there.
        WeightsError: missing or damaged files, or another kind of model.
    """
    recheck(config)
    local = Path(config.path).is_dir()
    if local:
        TensorFiles.open(Path(config.path), "model")  # refuses pickles, missing shards and damaged files, with the file's name
    elif config.revision is None:
        raise ConfigError(
            f"`path`: {config.path!r} is no folder; if it is a hub id, pin it with `revision`, the full hash of a commit (40 hexadecimal digits)"
        )
    device = usable_device(config.device)
    where: dict[str, Any] = {"local_files_only": local, "revision": None if local else config.revision, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(config.path, **where)
        model, report = AutoModelForCausalLM.from_pretrained(
            config.path, dtype=getattr(torch, config.dtype), use_safetensors=True, output_loading_info=True, **where
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise WeightsError(f"{config.path}: the model cannot be loaded: {' '.join(str(error).split())[:300]}") from error
    wrong = sorted(map(str, (*report["missing_keys"], *report["mismatched_keys"])))
    if wrong:
        raise WeightsError(f"{config.path}: {len(wrong)} tensors are missing or have another shape, among them {', '.join(wrong[:10])}")
    model.to(device).eval().requires_grad_(False)
    return TransformersModel(model, tokenizer, max_new_tokens=config.max_new_tokens)
