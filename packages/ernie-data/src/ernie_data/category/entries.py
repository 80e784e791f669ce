"""The stages ``category`` and ``rarity`` and their options, as the plugin offers them. Light."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from ernie_core.api import Config, Entry, PositiveInt

Levels = Annotated[int, Meta(ge=1, le=6)]


class CategoryConfig(Config):
    """``use = "category"``: a category for every record.

    Without ``taxonomy``, ``labels`` or ``column`` a taxonomy of ``leaves`` categories is built from the embeddings of the whole dataset. At most one of
    the three may be given. Paths are seen from the folder in which the build is started.
    """

    leaves: PositiveInt = 10_000
    """Categories of the taxonomy that is built; fewer where the pictures do not differ enough."""
    levels: Levels = 2
    """Depth of its tree. The work for a picture grows with leaves^(1 / levels)."""
    rows_per_leaf: PositiveInt = 10
    """A taxonomy gets at most one leaf for so many pictures of the sample, so that a small dataset is not cut into single pictures."""
    sample_rows: PositiveInt = 500_000
    """The tree, names and the head are learnt from at most so many pictures, drawn by key. Memory: twice their embeddings (float32)."""
    iterations: PositiveInt = 12
    """Most rounds of k-means in each node."""
    normalise: bool = True
    """Scale embeddings to length 1 first, as fits embeddings that are compared by cosine."""
    seed: int = 0
    taxonomy: str = ""
    """Folder of a taxonomy that exists, as `ernie data taxonomy build` writes it, to use in place of a new one."""
    labels: str = ""
    """A `.jsonl` or `.parquet` file of `key` and `label`: a linear head is trained on it and names every record's category."""
    column: str = ""
    """Take the category from this column of an earlier stage, or, as `captions.NAME`, from the captions of one style."""

    def __post_init__(self) -> None:
        given = [name for name, value in (("taxonomy", self.taxonomy), ("labels", self.labels), ("column", self.column)) if value]
        if len(given) > 1:
            raise ValueError(f"`{given[0]}` and `{given[1]}` both say where categories come from: give one")
        if self.labels and not self.labels.endswith((".jsonl", ".parquet")):
            raise ValueError(f"`labels` must end in .jsonl or .parquet, found {self.labels!r}")


class RarityConfig(Config):
    """``use = "rarity"``: how rare the words of a record's captions are over the dataset, for ``dual-axis`` sampling."""

    sample_rows: PositiveInt = 1_000_000
    """Words are counted in about so many records, drawn by key."""
    seed: int = 0


STAGES = (
    Entry(
        "category", "a taxonomy of embeddings, a head trained from labels, or a column", CategoryConfig, "ernie_data.category.stage:build"
    ),
    Entry("rarity", "how rare the words of captions are", RarityConfig, "ernie_data.category.rarity:build"),
)
