"""Resolution and aspect ratio, and the bucket a picture would train in. Only computes: thresholds belong to selections."""

from __future__ import annotations

from typing import ClassVar

from ernie_core.api import DataStageContext
from ernie_data.buckets import bucket_sizes, nearest_bucket
from ernie_data.engine.stage import Item, Kept, RecordStage
from ernie_data.stages.entries import SizeConfig


def build(config: SizeConfig, context: DataStageContext) -> Size:
    return Size(config)


class Size(RecordStage):
    """Columns: ``megapixels``, ``aspect`` (width / height), ``bucket`` ("WxH") and ``enlarged`` (factor to cover the bucket; above 1 the picture is
    smaller than its bucket).
    """

    code: ClassVar[str] = "1"
    columns: ClassVar = {"megapixels": "float", "aspect": "float", "bucket": "string", "enlarged": "float"}
    needs: ClassVar = ("width", "height")

    def __init__(self, config: SizeConfig) -> None:
        self.sizes = bucket_sizes(config.size_px, multiple_px=config.multiple_px, max_aspect=config.max_aspect)

    def one(self, item: Item) -> Kept:
        width, height = item.columns["width"], item.columns["height"]
        bucket = nearest_bucket(width, height, self.sizes)
        return Kept(
            {
                "megapixels": round(width * height / 1e6, 6),
                "aspect": round(width / height, 6),
                "bucket": f"{bucket[0]}x{bucket[1]}",
                "enlarged": round(max(bucket[0] / width, bucket[1] / height), 6),
            }
        )
