"""The arguments of ``ernie align pairs``. Light; the work is imported when it is done."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ernie_align.pair_config import PairBuildConfig
    from ernie_align.pairs.build import Job, Painter
    from ernie_core.api import App

LAYOUT_NAMES = ("pickapic", "jsonl")
_TOLD_EVERY_S = 10.0
_BUILD = """The config file's options are in the README of ernie-align; flags override it. After a kill, or when no pair was left, the same command goes on.
Rounds of an on-policy refresh: the same command with the newer checkpoint and --append-round N writes DIR/round-N; name the folders of all rounds in the
data source's path."""


def add_pairs(groups: Any) -> None:
    """Add ``pairs`` to the verbs of ``ernie align``."""
    pairs = groups.add_parser("pairs", help="import, build and inspect preference pairs", allow_abbrev=False)
    verbs = pairs.add_subparsers(required=True, metavar="VERB")

    importing = _verb(
        verbs, "import", _import, "votes of people, from a Pick-a-Pic style Parquet or a JSON-lines list, as a folder of pairs"
    )
    importing.add_argument("path", type=Path, metavar="PATH")
    importing.add_argument("--layout", required=True, choices=LAYOUT_NAMES)
    importing.add_argument("--out", type=Path, required=True, metavar="DIR", help="must not exist")
    importing.add_argument("--annotator", metavar="NAME", help="of rows that name none (default: after the layout)")
    importing.add_argument("--max-megapixels", type=_whole, default=64, metavar="N", help="leave larger pictures out (default %(default)s)")
    importing.add_argument("--json", action="store_true", help="print the counts as JSON")

    build = _verb(verbs, "build", _build, "sample pictures from a checkpoint, score them and choose pairs")
    build.epilog = _BUILD
    build.add_argument("--checkpoint", required=True, metavar="DIR", help="a run, a checkpoint, or a diffusers pipeline folder")
    build.add_argument("--prompts", type=Path, required=True, metavar="FILE", help="a prompt a line, or .jsonl with prompt and style")
    build.add_argument("--out", type=Path, required=True, metavar="DIR")
    build.add_argument("--config", type=Path, metavar="FILE.toml", help="scorers with their options, sampling, and how pairs are chosen")
    build.add_argument("--scorer", nargs="+", default=[], metavar="NAME", help="scorers at their defaults, in place of the config's")
    build.add_argument("--images-per-prompt", type=_whole, metavar="N")
    build.add_argument("--seed", type=_count, metavar="S", help="image n starts from the noise of S + n")
    build.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a value of the config; needs --config")
    build.add_argument("--append-round", type=_count, metavar="N", help="write DIR/round-N, from seeds of its own")
    build.add_argument("--raw", action="store_true", help="the trained weights instead of their moving average")
    build.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu or cuda")
    build.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: float32 on a CPU, bfloat16 on a GPU")
    build.add_argument("--keep-work", action="store_true", help="keep all pictures and scores, to choose other pairs from them")
    build.add_argument("--json", action="store_true", help="print the counts as JSON")

    inspect = _verb(verbs, "inspect", _inspect, "counts and margins of a folder of pairs, and a contact sheet")
    inspect.add_argument("folder", type=Path, metavar="DIR")
    inspect.add_argument(
        "--sheet", type=Path, metavar="FILE.png", help="winners, losers and prompts, from the greatest margin to the least"
    )
    inspect.add_argument("--count", type=_whole, default=12, metavar="N", help="pairs on the sheet (default %(default)s)")
    inspect.add_argument("--verify", action="store_true", help="read and decode every picture")
    inspect.add_argument("--json", action="store_true", help="print one JSON object")


def _import(arguments: argparse.Namespace, app: App) -> int:
    from ernie_align.pairs.pair import Unusable
    from ernie_align.pairs.readers import LAYOUTS
    from ernie_align.pairs.writer import write_pairs

    layout = LAYOUTS[arguments.layout]
    _refuse_existing(arguments.out)
    with write_pairs(arguments.out, max_pixels=arguments.max_megapixels * 1_000_000) as writer:
        writer.about.update(layout=arguments.layout, file=arguments.path.name)
        for item in layout.read(arguments.path, arguments.annotator or layout.annotator):
            if isinstance(item, Unusable):
                writer.leave_out(item.reason, str(item))
            else:
                writer.add(item)
    _tell_counts(arguments, writer.counts(), app)
    return 0


def _build(arguments: argparse.Namespace, app: App) -> int:
    from ernie_align.pairs.build import build_pairs

    out = arguments.out if arguments.append_round is None else arguments.out / f"round-{arguments.append_round}"
    job = _job(arguments, out, app)
    done = build_pairs(job, out, progress=_Told(app), keep_work=arguments.keep_work)
    _tell_counts(argparse.Namespace(out=out, json=arguments.json), {k: done.facts[k] for k in ("seen", "pairs", "left_out")}, app)
    return 0


def _job(arguments: argparse.Namespace, out: Path, app: App) -> Job:
    from ernie_align.pairs.build import Job
    from ernie_align.pairs.prompts import read_prompts
    from ernie_core.api import PureContext, ScorerContext
    from ernie_core.sampling.identity import identify
    from ernie_core.sampling.pipeline import usable_device

    config = _build_config(arguments, app)
    for scorer in config.scorers:
        app.host.load("scorers", scorer.use)  # what is not installed should be known before a model is read
    sampler = app.host.build("samplers", config.sampler, PureContext())
    prompts, repeated = read_prompts(arguments.prompts)
    if repeated:
        app.err(f"warning: {arguments.prompts}: {repeated} prompts are there more than once and were taken once")
    device = usable_device(arguments.device)
    dtype = arguments.dtype or ("bfloat16" if device.type == "cuda" else "float32")
    identity = identify(arguments.checkpoint)
    for note in identity.notes:
        app.err(f"warning: {note}")
    if arguments.append_round is not None:
        _warn_of_old_policy(out, identity.sha256, app)

    def open_painter() -> Painter:
        return _open_painter(identity.directory, config, sampler, device=str(device), dtype=dtype, raw=arguments.raw, app=app)

    return Job(
        config,
        prompts,
        identity.to_json(),
        {"raw": arguments.raw, "device": str(device), "dtype": dtype},
        arguments.append_round or 0,
        open_painter,
        lambda scorer: app.host.build("scorers", config.scorers[scorer], ScorerContext(str(device))),
    )


def _build_config(arguments: argparse.Namespace, app: App) -> PairBuildConfig:
    """
    Raises:
        ConfigError: every problem found.
    """
    from ernie_align.pair_config import PairBuildConfig
    from ernie_core.api import ConfigError, from_plain

    given = {"images_per_prompt": arguments.images_per_prompt, "seed": arguments.seed}
    given = {name: value for name, value in given.items() if value is not None}
    if arguments.config is not None:
        overrides = [f"{name}={value}" for name, value in given.items()]
        if arguments.scorer:
            overrides.append("scorers=[" + ", ".join(f"{{ use = {json.dumps(name)} }}" for name in arguments.scorer) + "]")
        return app.read_config(arguments.config, PairBuildConfig, overrides=[*arguments.set, *overrides]).config
    if arguments.set:
        raise ConfigError("--set overrides a value of --config, and there is none")
    if not arguments.scorer:
        raise ConfigError("nobody to judge the pictures: give --scorer NAME, or --config FILE.toml with [[scorers]]")
    return from_plain({**given, "scorers": [{"use": name} for name in arguments.scorer]}, app.host, struct=PairBuildConfig, where="options")


def _open_painter(checkpoint: str, config: PairBuildConfig, sampler: Any, *, device: str, dtype: str, raw: bool, app: App) -> Painter:
    import torch

    from ernie_align.pairs.painter import PipelinePainter
    from ernie_core.sampling.pipeline import load_pipeline

    kind = torch.bfloat16 if dtype == "bfloat16" else torch.float32
    pipeline = load_pipeline(checkpoint, host=app.host, device=device, dtype=kind, raw=raw)
    return PipelinePainter(pipeline, config, sampler)


def _warn_of_old_policy(out: Path, sha256: str, app: App) -> None:
    """A round is to be sampled from the policy as it is now."""
    for manifest in sorted(out.parent.glob("round-*/manifest.json")):
        if manifest.parent == out:
            continue
        try:
            found = json.loads(manifest.read_bytes())["about"]["checkpoint"]["sha256"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if found == sha256:
            app.err(f"warning: {manifest.parent} was sampled from the same weights; a refresh is meant for the newer policy")


def _inspect(arguments: argparse.Namespace, app: App) -> int:
    from ernie_align.pairs.format import PairFolder
    from ernie_align.pairs.inspect import contact_sheet, lines, summary, verify
    from ernie_core.sampling.pictures import write_png

    folder = PairFolder(arguments.folder)
    if arguments.verify:
        verify(folder)
    found = summary(folder)
    if arguments.json:
        app.out(json.dumps(found, ensure_ascii=False))
    else:
        for line in lines(found):
            app.out(line)
    if arguments.sheet is not None:
        write_png(arguments.sheet, contact_sheet(folder, count=arguments.count))
        app.err(f"{arguments.sheet}: written")
    return 0


def _refuse_existing(out: Path) -> None:
    from ernie_core.api import RunFolderError

    if out.exists():
        raise RunFolderError(f"{out}: exists already, and finished folders are never overwritten; choose another --out")


def _tell_counts(arguments: argparse.Namespace, counts: dict[str, Any], app: App) -> None:
    if arguments.json:
        app.out(json.dumps({"out": str(arguments.out), **counts}, ensure_ascii=False))
        return
    app.out(f"{arguments.out}: {counts['pairs']} pairs of {counts['seen']} seen")
    for reason, fact in counts["left_out"].items():
        app.out(f"  left out {fact['count']} x {reason}, such as {fact['examples'][0]}")


class _Told:
    """A line of progress every ten seconds, and at the end of each part."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.last_s = time.monotonic()

    def __call__(self, what: str, done: int, total: int) -> None:
        if done == total or time.monotonic() - self.last_s > _TOLD_EVERY_S:
            self.last_s = time.monotonic()
            self.app.err(f"{what}: {done} of {total} pictures")


def _verb(verbs: Any, name: str, run: Any, summary: str) -> argparse.ArgumentParser:
    verb = verbs.add_parser(name, help=summary, description=summary, allow_abbrev=False)
    verb.set_defaults(run=run)
    return verb


def _whole(text: str) -> int:
    return _at_least(text, 1)


def _count(text: str) -> int:
    return _at_least(text, 0)


def _at_least(text: str, lowest: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = lowest - 1
    if value < lowest:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least {lowest}, found {text!r}")
    return value
