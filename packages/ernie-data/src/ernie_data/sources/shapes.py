"""The data source `shapes`: ShapeBench scenes rendered in memory at whatever size the stage asks for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import count

from ernie_core.api import ConfigError, DataSourceContext, Record, RecordRef, Stage
from ernie_data.config import ShapesConfig
from ernie_data.order import EpochOrder
from ernie_data.shapes.phrases import scene_captions
from ernie_data.shapes.profile import Profile, profile
from ernie_data.shapes.render import render
from ernie_data.shapes.scene import Scene, draw_scene


def build(config: ShapesConfig, context: DataSourceContext) -> ShapesSource:
    return ShapesSource(config, context)


class ShapesSource:
    """Square pictures of seen triples. Row r is scene r of the split; with ``categories`` the first of scenes r, r + count, r + 2 count, ... that is of one.

    Raises:
        ConfigError: a category that no scene of the profile has.
    """

    def __init__(self, config: ShapesConfig, context: DataSourceContext) -> None:
        self.config = config
        self.context = context
        self.profile = profile(config.profile)
        known = categories(self.profile)
        if unknown := [name for name in config.categories if name not in known]:
            raise ConfigError(
                f"data.categories: scenes of profile {config.profile} are never of {', '.join(map(repr, unknown))}; they are of {', '.join(known)}"
            )
        self._order = lru_cache(maxsize=4)(self._order_of)

    def __len__(self) -> int:
        return self.config.count

    def batch(self, step: int, *, global_batch: int, stage: Stage) -> list[RecordRef]:
        """
        Raises:
            ConfigError: the stage's size is no multiple of the codec's.
        """
        size_px = stage.size_px
        if size_px % self.context.size_multiple_px:
            raise ConfigError(
                f"stage size_px = {size_px}: ShapeBench pictures are square, so it must be a multiple of {self.context.size_multiple_px}"
            )
        _, rows = self._order(size_px).batch(step, global_batch)
        return [RecordRef(self._key(int(row)), int(row), (size_px, size_px)) for row in rows]

    def fetch(self, refs: Sequence[RecordRef]) -> list[Record]:
        if not refs:
            return []
        records = []
        for ref in refs:
            index, scene = self._scene(ref.row)
            captions = scene_captions(scene, index=index)
            kept = {s: captions[s] for s in self.config.styles or captions}
            pixels = render([scene], ref.size_px[0])[0]
            category = category_of(scene, self.profile)
            records.append(Record(ref.key, pixels, kept, ref.size_px, category=category, source=f"shapes/{self.config.split}"))
        return records

    def _scene(self, row: int) -> tuple[int, Scene]:
        """The scene of a row, and its number."""
        for index in count(row, self.config.count):
            scene = draw_scene(self.profile, seed=self.config.seed, split=self.config.split, index=index)
            if not self.config.categories or category_of(scene, self.profile) in self.config.categories:
                return index, scene
        raise AssertionError("unreachable: every category is drawn at some time")

    def _order_of(self, size_px: int) -> EpochOrder:
        return EpochOrder({(size_px, size_px): range(len(self))}, seed=self.context.seed, size_px=size_px)

    def _key(self, row: int) -> str:
        return f"{self.config.profile}-{self.config.split}-{row:08d}"


def category_of(scene: Scene, of: Profile) -> str:
    return scene.category if of.kinds else scene.profile


def categories(of: Profile) -> tuple[str, ...]:
    """All that scenes of a profile may be of."""
    if not of.kinds:
        return (of.name,)
    only = [f"{colour} {shape}" for colour in of.colours for shape in of.shapes]
    return ("text", *(kind for kind in of.kinds if kind not in ("single", "colours")), *only)
