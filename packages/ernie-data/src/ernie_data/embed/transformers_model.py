"""SigLIP and DINO through transformers. Pixels come from the picture processors on Pillow, so that torchvision changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from transformers import AutoConfig, AutoImageProcessor, AutoModel

from ernie_core.api import WeightsError
from ernie_core.model.tensor_files import TensorFiles
from ernie_data.devices import usable_device
from ernie_data.embed.entries import EmbedConfig
from ernie_data.images import first_line

MODEL_TYPES = {
    "siglip": ("siglip", "siglip_vision_model", "siglip2", "siglip2_vision_model"),
    "dino": ("dinov2", "dinov2_with_registers", "dinov3_vit", "dinov3_convnext"),
}


class PictureModel:
    """``load_model`` makes one."""

    def __init__(self, model: nn.Module, processor: Any, *, device: torch.device, dtype: torch.dtype) -> None:
        self._model = model
        self._processor = processor
        self._device = device
        self._dtype = dtype

    @torch.inference_mode()
    def embed(self, pictures: Sequence[Image.Image]) -> NDArray[np.float32]:
        """The pooled output for each picture, brought to length 1: [pictures, dimensions].

        Raises:
            WeightsError: the model gives numbers that are not finite.
        """
        inputs = self._processor(images=list(pictures), return_tensors="pt")
        moved = {
            name: tensor.to(self._device, self._dtype if tensor.is_floating_point() else tensor.dtype) for name, tensor in inputs.items()
        }
        pooled_BD = self._model(**moved).pooler_output.float()
        if not torch.isfinite(pooled_BD).all():
            raise WeightsError('the model\'s output is not finite; try dtype = "float32"')
        return nn.functional.normalize(pooled_BD, dim=-1).cpu().numpy()


def load_model(config: EmbedConfig) -> PictureModel:
    """
    Raises:
        ConfigError: neither a folder nor a hub id with a revision, or a device that is not there.
        WeightsError: missing or damaged files, pickles, or another kind of model.
    """
    path = str(config.path)
    local = Path(path).is_dir()
    device = usable_device(config.device)
    if local:
        TensorFiles.open(Path(path), "model")  # refuses pickles, missing shards and damaged files, with the file's name
    where: dict[str, Any] = {"local_files_only": local, "revision": None if local else config.revision}
    dtype = getattr(torch, config.dtype)
    try:
        model_type = AutoConfig.from_pretrained(path, **where).model_type
        if model_type not in MODEL_TYPES[config.model]:
            raise WeightsError(
                f'{path}: model_type {model_type!r}, expected for "{config.model}" one of {", ".join(MODEL_TYPES[config.model])}'
            )
        processor = AutoImageProcessor.from_pretrained(path, backend="pil", **where)
        model, report = AutoModel.from_pretrained(path, dtype=dtype, use_safetensors=True, output_loading_info=True, **where)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise WeightsError(f"{path}: the model cannot be loaded: {first_line(error)}") from error
    wrong = sorted(map(str, (*report["missing_keys"], *report["mismatched_keys"])))
    if wrong:
        raise WeightsError(f"{path}: {len(wrong)} tensors are missing or have another shape, among them {', '.join(wrong[:10])}")
    if model_type in ("siglip", "siglip2"):
        model = model.vision_model  # the tower alone, of a checkpoint with both
    model.to(device).eval().requires_grad_(False)
    return PictureModel(model, processor, device=device, dtype=dtype)
