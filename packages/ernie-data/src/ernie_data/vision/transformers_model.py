"""The vision backend ``transformers``: Qwen3-VL run in this process, greedily.

The prompt is put together here rather than by the model's processor class: that one also wants a video processor, which needs torchvision, and its
picture part would compute other pixels with torchvision than without. Here pixels always come from the implementation on Pillow.
What it does is little: the chat template gives one placeholder per picture, which is repeated once per merged patch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer, GenerationConfig
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.utils.hub import cached_file

from ernie_core.api import ConfigError, WeightsError, recheck
from ernie_core.model.tensor_files import TensorFiles
from ernie_data.devices import usable_device
from ernie_data.images import first_line
from ernie_data.vision.entries import VisionTransformersConfig
from ernie_data.vision.model import VisionError, VisionReason
from ernie_data.vision.pictures import open_picture

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MODEL_TYPES = ("qwen3_vl", "qwen3_vl_moe")
STEM = "model"


@dataclass(frozen=True)
class _Inputs:
    """One picture with its prompt. P patches of the picture, T tokens."""

    ids: list[int]
    pixels_PD: Tensor
    grid_13: Tensor  # frames, rows and columns of patches


class TransformersVision:
    """``VisionModel`` over a Qwen3-VL model; ``build_transformers`` loads one."""

    def __init__(
        self, model: nn.Module, tokenizer: PreTrainedTokenizerBase, image_processor: Any, *, config: VisionTransformersConfig
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._image_processor = image_processor
        self._config = config
        self._picture_id: int = model.config.image_token_id
        found = model.generation_config.eos_token_id
        self._ends = tuple(found) if isinstance(found, (list, tuple)) else (tokenizer.eos_token_id if found is None else found,)
        self._padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self._ends[0]
        # Replaces the checkpoint's own, whose sampling and penalties would otherwise fill what is left open here.
        model.generation_config = GenerationConfig(
            do_sample=False,
            num_beams=1,
            max_new_tokens=config.max_new_tokens,
            eos_token_id=list(self._ends),
            pad_token_id=self._padding,
        )

    def describe(self, images: Sequence[bytes], instruction: str, *, schema: Mapping[str, Any] | None = None) -> list[str | VisionError]:
        """``schema`` is not used: decoding is free, and the answer is checked by the caller."""
        prompt = self._prompt(instruction)
        prepared = [self._inputs(data, prompt) for data in images]
        good = [place for place, inputs in enumerate(prepared) if isinstance(inputs, _Inputs)]
        outcomes: list[str | VisionError] = [VisionError(VisionReason.GARBAGE, "not run")] * len(images)
        for place, inputs in enumerate(prepared):
            if isinstance(inputs, VisionError):
                outcomes[place] = inputs
        for first in range(0, len(good), self._config.batch_size):
            group = good[first : first + self._config.batch_size]
            for place, outcome in zip(group, self._answers([prepared[place] for place in group]), strict=True):
                outcomes[place] = outcome
        return outcomes

    def _prompt(self, instruction: str) -> list[int]:
        """Token ids with one placeholder for the picture."""
        messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": instruction}]}]
        text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        if ids.count(self._picture_id) != 1:
            raise WeightsError(
                f"{self._config.path}: the tokenizer's chat template gives {ids.count(self._picture_id)} placeholders (token {self._picture_id}) for"
                " one picture, expected 1: tokenizer, template and model do not belong together"
            )
        return ids

    def _inputs(self, data: bytes, prompt: list[int]) -> _Inputs | VisionError:
        picture = open_picture(data, side_px=self._config.side_px)
        if isinstance(picture, VisionError):
            return picture
        try:
            pixels = self._image_processor(images=[picture], return_tensors="pt")
        except ValueError as error:  # such as a ratio of the sides beyond 200
            return VisionError(VisionReason.PICTURE, f"{picture.width} x {picture.height} px: {first_line(error)}")
        grid_13 = pixels["image_grid_thw"]
        count = int(grid_13.prod()) // self._image_processor.merge_size**2
        place = prompt.index(self._picture_id)
        return _Inputs(prompt[:place] + [self._picture_id] * count + prompt[place + 1 :], pixels["pixel_values"], grid_13)

    def _answers(self, group: Sequence[_Inputs]) -> list[str | VisionError]:
        try:
            new_BT = self._generate(group)
        except torch.OutOfMemoryError:
            if len(group) == 1:
                detail = (
                    f"the device's memory is too small for one picture of {len(group[0].ids)} tokens: lower `side_px` or `max_new_tokens`"
                )
                return [VisionError(VisionReason.OUT_OF_MEMORY, detail)]
            torch.cuda.empty_cache()
            return [outcome for inputs in group for outcome in self._answers([inputs])]
        return [self._text(ids) for ids in new_BT.tolist()]

    @torch.inference_mode()
    def _generate(self, group: Sequence[_Inputs]) -> Tensor:
        """New tokens of each row. Prompts are padded on the left, where what is generated does not follow the padding."""
        device = next(self._model.parameters()).device
        width = max(len(inputs.ids) for inputs in group)
        ids_BT = torch.tensor([[self._padding] * (width - len(inputs.ids)) + inputs.ids for inputs in group])
        mask_BT = torch.tensor([[0] * (width - len(inputs.ids)) + [1] * len(inputs.ids) for inputs in group])
        whole_BT = self._model.generate(
            input_ids=ids_BT.to(device),
            attention_mask=mask_BT.to(device),
            mm_token_type_ids=((ids_BT == self._picture_id) & (mask_BT == 1)).to(torch.int32).to(device),  # 1: belongs to a picture
            pixel_values=torch.cat([inputs.pixels_PD for inputs in group]).to(device),
            image_grid_thw=torch.cat([inputs.grid_13 for inputs in group]).to(device),
        )
        return whole_BT[:, width:]

    def _text(self, ids: list[int]) -> str | VisionError:
        end = next((place for place, token in enumerate(ids) if token in self._ends), None)
        if end is None:
            return VisionError(VisionReason.TOO_LONG, f"no end within max_new_tokens = {self._config.max_new_tokens}")
        text = self._tokenizer.decode(ids[:end], skip_special_tokens=True)
        return text if text.strip() else VisionError(VisionReason.GARBAGE, "the answer is empty")


def build_transformers(config: VisionTransformersConfig) -> TransformersVision:
    """Load model, tokenizer and picture processor. No code that came with them is run, and pickles are refused.

    Raises:
        ConfigError: neither a folder nor a hub id with a revision, or a device that is not there.
        WeightsError: missing or damaged files, or another kind of model.
    """
    recheck(config)
    device = usable_device(config.device)
    local = Path(config.path).is_dir()
    if local:
        TensorFiles.open(Path(config.path), STEM)  # refuses pickles, missing shards and damaged files, with the file's name
    elif config.revision is None:
        raise ConfigError(
            f"`path`: {config.path!r} is no folder; if it is a hub id, pin it with `revision`, the full hash of a commit (40 hexadecimal digits)"
        )
    where: dict[str, Any] = {"local_files_only": local, "revision": None if local else config.revision, "trust_remote_code": False}
    try:
        model_type = AutoConfig.from_pretrained(config.path, **where).model_type
        if model_type not in MODEL_TYPES:
            raise WeightsError(f"{config.path}: model_type {model_type!r}, expected one of {', '.join(MODEL_TYPES)}")
        tokenizer = AutoTokenizer.from_pretrained(config.path, **where)
        tokenizer.chat_template = _template(tokenizer, config.path, where["revision"], local=local)
        image_processor = Qwen2VLImageProcessorPil.from_pretrained(config.path, **where)  # the automatic class may want torchvision
        model, report = AutoModelForImageTextToText.from_pretrained(
            config.path, dtype=getattr(torch, config.dtype), use_safetensors=True, output_loading_info=True, **where
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise WeightsError(f"{config.path}: the model cannot be loaded: {' '.join(str(error).split())[:300]}") from error
    wrong = sorted(map(str, (*report["missing_keys"], *report["mismatched_keys"])))
    if wrong:
        raise WeightsError(f"{config.path}: {len(wrong)} tensors are missing or have another shape, among them {', '.join(wrong[:10])}")
    model.to(device).eval().requires_grad_(False)
    return TransformersVision(model, tokenizer, image_processor, config=config)


def _template(tokenizer: PreTrainedTokenizerBase, path: str, revision: str | None, *, local: bool) -> str:
    """The chat template: the tokenizer's where it knows pictures, else that of ``chat_template.json``, where older releases keep the processor's."""
    own = tokenizer.chat_template
    if isinstance(own, str) and "image" in own:
        return own
    stored = cached_file(path, "chat_template.json", revision=revision, local_files_only=local, _raise_exceptions_for_missing_entries=False)
    template = json.loads(Path(stored).read_bytes()).get("chat_template") if stored else None
    if not isinstance(template, str):
        raise WeightsError(f"{path}: no chat template with pictures, neither the tokenizer's nor in chat_template.json")
    return template
