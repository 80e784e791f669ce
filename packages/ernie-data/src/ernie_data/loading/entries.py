"""Options of the way from a build to the trainer: the data source `curated` and the cache `disk`. Light: no torch, no Pillow."""

from __future__ import annotations

from ernie_core.api import Config, Entry, Fraction, Positive, PositiveInt
from ernie_data.config import Megapixels
from ernie_data.sampling.config import SamplingConfig


class CuratedConfig(Config):
    """``data = { use = "curated", path = "..." }``: records of a build with an ``[index]``, drawn by category and quality."""

    path: str
    """The output folder of ``ernie data build``."""
    sampling: SamplingConfig = SamplingConfig()
    """Which pictures are drawn how often. With ``draws = 0`` the run's own number is taken: steps times pictures per batch over all stages, as planned
    when the run first started."""
    styles: tuple[str, ...] = ()
    """Use only captions of these styles. Default: all. A record with several is shown with one of them, drawn anew each time."""
    categories: tuple[str, ...] = ()
    """Draw only pictures of these categories, as the index has them. Default: all."""
    max_megapixels: Megapixels = 170
    """Larger pictures are not decoded."""
    max_bad_share: Fraction = 0.001
    """Training stops when more than this share of the last ``bad_window`` pictures could not be used and were replaced by others."""
    bad_window: PositiveInt = 100_000
    max_bad_in_a_row: PositiveInt = 100
    """Training stops when so many pictures in a row could not be used."""


class DiskCacheConfig(Config):
    """``cache = { use = "disk", path = "..." }``: one file per tensor in a folder that runs and ranks may share."""

    path: str
    max_gib: Positive = 100.0
    """When the folder holds so much, nothing more is added; delete it to begin anew."""


SOURCES = (
    Entry("curated", "records of a finished build, drawn by category and quality", CuratedConfig, "ernie_data.sources.curated:build"),
)
CACHES = (
    Entry("disk", "a folder with a file per latent or text embedding, verified", DiskCacheConfig, "ernie_data.loading.disk_cache:build"),
)
