"""What is to be trained for each expert: a config of its own over the shared one, checked before anything is trained. Light: torch is imported to look
into data.

Each expert's config is a file in ``DIR/_configs``, so that its run is that of ``ernie train BASE.toml DIR/_configs/NAME.toml --out DIR/NAME``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import UNSET

from ernie_core import io
from ernie_core.adapters.config import AdapterConfig
from ernie_core.api import App, ConfigError, DataError, MissingComponent, Problem, to_table, to_toml
from ernie_distill.experts.config import ExpertConfig, TeachersConfig

if TYPE_CHECKING:
    from ernie_core.api import PluginHost

METHOD = "sft"
CONFIGS = "_configs"  # no expert is called so
BASE = "_shared.toml"


@dataclass(frozen=True)
class Planned:
    """``config``: the ``TrainConfig`` of ``files``, decoded."""

    expert: ExpertConfig
    files: tuple[Path, ...]
    run: Path
    config: Any
    host: PluginHost


def plan_experts(path: Path, overrides: Sequence[str], out: Path, app: App) -> list[Planned]:
    """Read the file and write each expert's config.

    Raises:
        MissingComponent: nobody offers the method ``sft``.
        ConfigError: every problem of the file, or of the first training config that has one.
    """
    loaded = app.read_config(path, TeachersConfig, overrides=overrides)
    require_method(app.host)
    config, train = loaded.config, loaded.config.train
    if isinstance(train, dict):
        base = [_write(out / BASE, train)]
    else:
        base = [Path(loaded.place(("train",), name, beside=path.parent)) for name in ((train,) if isinstance(train, str) else train)]
    return [_planned(expert, config, base, out, app, where=path) for expert in config.experts]


def require_method(host: PluginHost) -> None:
    """
    Raises:
        MissingComponent: what to install.
    """
    try:
        host.entry("methods", METHOD)
    except MissingComponent as error:
        raise MissingComponent(
            f"ernie distill teachers build fine-tunes experts with the method `{METHOD}`, which no usable plugin offers: pip install ernie-align. ({error})"
        ) from error


def check_data(planned: Sequence[Planned]) -> None:
    """Open every expert's data, so that the last one's mistake is not known only when all others are trained.

    Raises:
        DataError, ConfigError: naming the expert: a domain without records, or whatever its source finds.
    """
    import torch

    from ernie_core.api import CodecContext, DataSourceContext

    first = planned[0]
    codec = first.host.build("codecs", first.config.codec, CodecContext(torch.device("cpu"), torch.float32))
    for one in planned:
        config = one.config
        context = DataSourceContext(config.run.seed, codec.pixels_per_token, stages=config.stages, draws=config.total_pictures)
        try:
            empty = not len(one.host.build("data_sources", config.data, context))
        except ConfigError as error:
            raise ConfigError([Problem(f"expert `{one.expert.name}`", problem.message) for problem in error.problems]) from error
        except DataError as error:
            raise DataError(f"expert `{one.expert.name}`: {error}") from error
        if empty:
            raise DataError(f"expert `{one.expert.name}`: there are no records of its domains, {', '.join(one.expert.domains)}")


def _planned(expert: ExpertConfig, config: TeachersConfig, base: Sequence[Path], out: Path, app: App, *, where: Path) -> Planned:
    file = out / CONFIGS / f"{expert.name}.toml"
    adapter = config.adapter if expert.adapter is UNSET else expert.adapter
    tables: dict[str, Any] = {"method": {"use": METHOD, **({} if adapter is UNSET else {"adapter": _adapter_table(adapter)})}}
    if steps := expert.steps or config.steps:
        tables["run"] = {"steps": steps}
    tables["data"] = expert.data if expert.data is not None else narrowed(app.load_config([*base, _write(file, tables)]), expert, where)
    files = (*base, _write(file, tables))
    loaded = app.load_config(files)
    if loaded.config.model.init is None:
        raise ConfigError(
            [
                Problem(
                    f"{files[0]}",
                    "`model.init` is missing: experts are trained over the generalist, a model that exists; name its run or pipeline",
                )
            ]
        )
    return Planned(expert, files, out / expert.name, loaded.config, loaded.host)


def _adapter_table(adapter: AdapterConfig | None) -> dict[str, Any] | bool:
    """Whole, with what an option that is left out comes to, so that nothing of the shared config's table is left in it."""
    return False if adapter is None else {**to_table(adapter), "alpha": adapter.rank if adapter.alpha is None else adapter.alpha}


def narrowed(loaded: Any, expert: ExpertConfig, where: Path) -> dict[str, Any]:
    """The shared ``[data]`` with the expert's domains.

    Raises:
        ConfigError: its source cannot be narrowed.
    """
    selected = loaded.config.data
    if "categories" not in loaded.host.entry("data_sources", selected.use).config.__struct_fields__:
        raise ConfigError(
            [
                Problem(
                    f"{where}: expert `{expert.name}`",
                    f"the data source `{selected.use}` has no option `categories`, so that it cannot be narrowed to {', '.join(expert.domains)}: give the "
                    f'expert its own, as in data = {{ use = "{selected.use}", path = "..." }}',
                )
            ]
        )
    return {"use": selected.use, "categories": list(expert.domains)}


def _write(path: Path, tables: Mapping[str, Any]) -> Path:
    io.make_folder(path.parent)
    io.write_text(path, to_toml(tables))
    return path
