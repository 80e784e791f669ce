"""The config of ``ernie data sft build``, and the recipe that it stands for. Light.

.. code-block:: toml

    from = "curated"
    where = "score > 5"

    [[domains]]
    name = "poster"
    where = "category = 'poster'"

    [coherent]
    take = 20000

    [rewrite]
    backend = "server"
    server = { url = "http://127.0.0.1:8000/v1", model = "Qwen/Qwen3-8B" }
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from ernie_core.api import Config, ConfigError, PositiveInt, Selection
from ernie_data.recipe import BuildInput, IndexOptions, Name, Recipe, RunOptions
from ernie_data.rewriting.entries import RewriteConfig
from ernie_data.stages.entries import DecodeConfig, SizeConfig
from ernie_data.topdown.entries import CoherentConfig, DomainConfig, DomainRule, check_domains

if TYPE_CHECKING:
    from ernie_core.api import App


class SftConfig(Config):
    """What ``ernie data sft build`` reads."""

    origin: str = msgspec.field(name="from")
    """Output folder of a finished build."""
    domains: Annotated[tuple[DomainRule, ...], Meta(min_length=1)]
    """The first that matches wins; records of none are refused."""
    name: Name = "sft"
    """Begins every key."""
    where: str = ""
    """SQL condition over the origin's columns; subqueries may look at the whole origin. Default: all accepted records."""
    columns: tuple[str, ...] | None = None
    """Columns to carry over. Default: all that are not made again from the picture."""
    labels: str = ""
    """A file of ``key`` and ``label`` for the classifier, with keys of this set: ``<name>/<key in the origin>``."""
    seed: int = 0
    """Of the classifier's sample."""
    size: SizeConfig = SizeConfig()
    coherent: CoherentConfig = CoherentConfig()
    rewrite: RewriteConfig = RewriteConfig()
    unit_rows: PositiveInt = 256
    index: IndexOptions | None = None
    run: RunOptions = RunOptions()

    def __post_init__(self) -> None:
        check_domains(self.domains, self.labels)


def load_sft(path: Path, app: App, *, out: Path, overrides: tuple[str, ...] = ()) -> Recipe:
    """The recipe of a config. Relative paths are seen from the config's folder.

    Raises:
        ConfigError: every problem with file and line; or the set is to be built over its origin.
    """
    loaded = app.read_config(path, SftConfig, overrides=overrides)
    config = loaded.config
    origin = Path(loaded.place(("from",), config.origin, beside=path.parent))
    if origin.resolve() == out.resolve():
        raise ConfigError(f"--out {out}: that is the build it is made from; choose another folder")
    labels = loaded.place(("labels",), config.labels, beside=path.parent) if config.labels else ""
    return recipe_of(msgspec.structs.replace(config, origin=str(origin), labels=labels))


def recipe_of(config: SftConfig) -> Recipe:
    """An ordinary recipe: the origin as a source, then size, domain, coherent and rewrite."""
    source = BuildInput(path=config.origin, name=config.name, where=config.where, columns=config.columns)
    domain = DomainConfig(domains=config.domains, labels=config.labels, seed=config.seed)
    stages = (
        Selection("decode", DecodeConfig()),
        Selection("size", config.size),
        Selection("domain", domain),
        Selection("coherent", config.coherent),
        Selection("rewrite", config.rewrite),
    )
    return Recipe(sources=(Selection("build", source),), stages=stages, unit_rows=config.unit_rows, index=config.index, run=config.run)
