"""Embeddings of pictures, by one of three models."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

from ernie_core.api import ConfigError, DataStageContext, MissingComponent
from ernie_data.embed.entries import EmbedConfig
from ernie_data.embed.tiny import SIDE_PX, tiny_embedding
from ernie_data.engine.stage import BatchStage, Item, Kept, RecordStage, Refuse
from ernie_data.stages.picture import stored_picture

if TYPE_CHECKING:
    from ernie_data.embed.transformers_model import PictureModel

_ENDS_BYTES = 1 << 20


def build(config: EmbedConfig, context: DataStageContext) -> EmbedTiny | EmbedModel:
    """
    Raises:
        ConfigError: neither a folder nor a hub id with a revision.
        MissingComponent: torch or transformers is not installed.
    """
    return EmbedTiny() if config.model == "tiny" else EmbedModel(config)


class EmbedTiny(RecordStage):
    """Column: ``embedding``, see ``tiny``."""

    columns: ClassVar = {"embedding": "floats"}

    def __init__(self) -> None:
        self.code = f"tiny 1 pillow {PIL.__version__}"

    def one(self, item: Item) -> Kept:
        return Kept({"embedding": tiny_embedding(stored_picture(item, side_px=SIDE_PX))})


class EmbedModel(BatchStage):
    """Column: ``embedding``, the model's pooled output. The model is loaded by the first worker that needs it."""

    columns: ClassVar = {"embedding": "floats"}
    actor: ClassVar = True

    def __init__(self, config: EmbedConfig) -> None:
        self.config = config
        self.batch_size = config.batch_size
        self.code = f"1 {_versions()} pillow {PIL.__version__} {_weights(config)}"
        self._model: PictureModel | None = None

    def setup(self) -> None:
        from ernie_data.embed.transformers_model import load_model  # torch

        self._model = load_model(self.config)

    def teardown(self) -> None:
        self._model = None

    def many(self, items: Sequence[Item]) -> list[Kept | Refuse]:
        pictures: list[Image.Image | Refuse] = []
        for item in items:
            try:
                pictures.append(stored_picture(item))
            except Refuse as refusal:
                pictures.append(refusal)
        vectors = iter(self._embed([picture for picture in pictures if not isinstance(picture, Refuse)]))
        return [picture if isinstance(picture, Refuse) else Kept({"embedding": next(vectors)}) for picture in pictures]

    def _embed(self, pictures: Sequence[Image.Image]) -> NDArray[np.float32]:
        if self._model is None:
            raise RuntimeError("setup() has not been called")
        return self._model.embed(pictures) if pictures else np.zeros((0, 0), np.float32)


def _versions() -> str:
    found = []
    for name in ("torch", "transformers"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            raise MissingComponent(
                f'the models "siglip" and "dino" of the stage `embed` need {name}, which is not installed: pip install \'ernie-data[train]\''
            ) from None
    return " ".join(found)


def _weights(config: EmbedConfig) -> str:
    """Names the weights: the commit of a hub id, or a sum over the folder's files, of large ones over their size, beginning and end."""
    folder = Path(str(config.path))
    if not folder.is_dir():
        if config.revision is None:
            raise ConfigError(
                f"`path`: {config.path!r} is no folder; if it is a hub id, pin it with `revision`, the full hash of a commit (40 hexadecimal digits)"
            )
        return config.revision
    sums = hashlib.sha256()
    for path in sorted([*folder.glob("*.json"), *folder.glob("*.safetensors")]):
        size = path.stat().st_size
        sums.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            sums.update(file.read(_ENDS_BYTES))
            file.seek(max(0, size - _ENDS_BYTES))
            sums.update(file.read(_ENDS_BYTES))
    return sums.hexdigest()[:32]
