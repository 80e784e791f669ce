"""``ernie eval --suite NAME --checkpoint DIR --out DIR``: sample a suite's prompts and judge the pictures, or judge pictures that exist."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ernie_core.cli.app import Parser, UsageError
from ernie_core.cli.sampling import Sampling, add_sampling_options, at_least, open_sampling, settle_with_method, warnings_told
from ernie_core.config.base import Config, Selection
from ernie_core.config.load import load_local, to_plain
from ernie_core.config.source import read_sources
from ernie_core.plugins.hookspecs import EvaluationContext, PureContext

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ernie_core.cli.app import App
    from ernie_core.evaluation.run import Evaluated, Job

EPILOG = """With --pictures the options of sampling mean nothing, and torch is not needed.
Run the same command again to go on with what was stopped. Exit codes: 0 done, 1 failed, 2 wrong input."""
VERSIONS_OF = ("ernie-core", "numpy", "pillow", "torch")


def main(argv: list[str], app: App) -> int:
    parser = Parser("eval", "Sample the prompts of an evaluation suite and judge the pictures, or judge pictures that exist.")
    parser.epilog = EPILOG
    parser.add_argument("--suite", required=True, metavar="NAME", help="an installed suite, see `ernie plugins list`")
    parser.add_argument("--config", action="append", default=[], metavar="FILE.toml", help="the suite's options")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="one of the suite's options")
    parser.add_argument("--checkpoint", metavar="DIR", help="a run, a checkpoint, or a diffusers pipeline folder")
    parser.add_argument(
        "--pictures", metavar="DIR", help="judge the pictures in DIR, named ID.png after the prompts' ids, instead of sampling"
    )
    parser.add_argument("--out", metavar="DIR", help="for pictures, verdicts.jsonl, metrics.json and a contact sheet")
    add_sampling_options(parser)
    parser.add_argument(
        "--samples-per-prompt", type=at_least(1), default=1, metavar="N", help="picture n starts from the noise of seed + n"
    )
    parser.add_argument("--batch-size", type=at_least(1), default=4, metavar="N", help="pictures sampled and judged at a time")
    parser.add_argument("--limit", type=at_least(1), metavar="N", help="only the suite's first N prompts")
    parser.add_argument("--list", action="store_true", help="print the prompts with their ids as JSON lines and stop; nothing is written")
    parser.add_argument("--json", action="store_true", help="print metrics.json instead of a table")
    options = parser.parse_args(argv)
    if (options.checkpoint is None) == (options.pictures is None) and not options.list:
        raise UsageError("ernie eval: expected either --checkpoint or --pictures. See `ernie eval --help`.")
    if options.out is None and not options.list:
        raise UsageError("ernie eval: --out is needed. See `ernie eval --help`.")
    with warnings_told(app):
        return _eval(options, parser, app)


def _eval(options: argparse.Namespace, parser: Parser, app: App) -> int:
    from ernie_core.evaluation.asks import plan_asks

    config = _suite_config(options, app)
    evaluation = app.host.build("evaluations", Selection(options.suite, config), EvaluationContext(app.host.build, _device(options)))
    asks = plan_asks(evaluation.prompts(), suite=options.suite, samples=options.samples_per_prompt, limit=options.limit)
    if options.list:
        for ask in asks:
            listed = {"id": ask.id, "prompt": ask.prompt.prompt, "tags": ask.prompt.tags, "metrics": ask.prompt.metrics}
            app.out(json.dumps(listed, ensure_ascii=False))
        return 0
    from ernie_core.evaluation.run import Job, evaluate

    suite = {"name": options.suite, "options": to_plain(config), "code": evaluation.code}
    asked = {"suite": suite, "samples_per_prompt": options.samples_per_prompt, "limit": options.limit, "batch_size": options.batch_size}
    common: dict[str, Any] = {
        "suite": options.suite,
        "evaluation": evaluation,
        "asks": asks,
        "seed": options.seed,
        "batch": options.batch_size,
    }
    if options.pictures is not None:
        _refuse_idle(options, parser)
        pictures = Path(options.pictures)
        job = Job(**common, asked={**asked, "pictures": str(pictures.resolve())}, about=_about(suite, app, None), pictures=pictures)
    else:
        job = _sampling_job(options, common, asked, suite, app)
    began = time.monotonic()
    with Progress() as progress:
        done = evaluate(job, Path(options.out), progress=progress)
    _tell(done, options, time.monotonic() - began, app)
    return 0


def _suite_config(options: argparse.Namespace, app: App) -> Config:
    """The suite's options from files and ``--set``.

    Raises:
        MissingComponent: no such suite; names what is installed.
        ConfigError: every problem found.
    """
    entry = app.host.entry("evaluations", options.suite)
    return load_local(read_sources([Path(p) for p in options.config], options.set), app.host, entry.config, local={}).config


def _sampling_job(
    options: argparse.Namespace, common: Mapping[str, Any], asked: Mapping[str, Any], suite: Mapping[str, Any], app: App
) -> Job:
    from ernie_core.evaluation.run import Job
    from ernie_core.sampling.identity import identify

    settle_with_method(options, options.checkpoint)
    app.host.build("samplers", Selection(options.sampler), PureContext())  # an unknown name should not cost reading a model first
    device = _device(options)
    identity = identify(options.checkpoint)
    for note in identity.notes:
        app.err(f"warning: {note}")
    settings = {
        **asked,
        "checkpoint": {"kind": identity.kind, "sha256": identity.sha256, "step": identity.step},
        **{name: getattr(options, name) for name in ("steps", "guidance", "seed", "sampler", "raw", "dtype")},
        "size_px": None if options.size is None else list(options.size),
        "device": device,
    }

    def open_painter() -> _Painter:
        return _Painter(open_sampling(identity.directory, options, app), options.sampler)

    return Job(**common, asked=settings, about=_about(suite, app, identity.to_json()), open_painter=open_painter)


@dataclass(frozen=True)
class _Painter:
    sampling: Sampling
    sampler: str

    @property
    def used(self) -> Mapping[str, Any]:
        return self.sampling.settled(self.sampler)

    def paint(self, prompts: Sequence[str], *, seed: int) -> NDArray[np.uint8]:
        return self.sampling.sample(prompts, seed=seed)


def _device(options: argparse.Namespace) -> str:
    """Without torch only judges that need none can run, on the CPU."""
    if options.device == "cpu":
        return "cpu"
    try:
        from ernie_core.sampling.pipeline import usable_device
    except ModuleNotFoundError:
        if options.checkpoint is None and options.device == "auto":
            return "cpu"
        raise
    return str(usable_device(options.device))


def _refuse_idle(options: argparse.Namespace, parser: Parser) -> None:
    idle = ("steps", "guidance", "seed", "size", "sampler", "raw", "dtype")
    given = [f"--{name}" for name in idle if getattr(options, name) != parser.get_default(name)]
    if given:
        raise UsageError(f"ernie eval: {', '.join(given)} mean nothing with --pictures, which samples nothing; leave them out")


def _about(suite: Mapping[str, Any], app: App, checkpoint: Mapping[str, Any] | None) -> dict[str, Any]:
    versions = {name: metadata.version(name) for name in VERSIONS_OF if _installed(name)}
    return {
        "suite": suite,
        "checkpoint": checkpoint,
        "versions": {"python": sys.version.split()[0], **versions, "plugins": app.host.plugin_set()},
    }


def _installed(name: str) -> bool:
    with suppress(metadata.PackageNotFoundError):
        return bool(metadata.version(name))
    return False


def _tell(done: Evaluated, options: argparse.Namespace, took_s: float, app: App) -> None:
    from ernie_core.evaluation.summary import table

    if options.json:
        app.out(json.dumps(done.report, ensure_ascii=False))
    else:
        for line in table(done.overall, done.tags):
            app.out(line)
    for state in ("missing", "unreadable"):
        if count := done.report[state]["count"]:
            app.err(f"{count} pictures are {state} and count as 0, such as {', '.join(done.report[state]['first'][:3])}")
    app.err(f"{options.out}: {len(done.verdicts)} pictures judged, {took_s:.1f} s")


class Progress:
    """A bar per part on a terminal, otherwise silent."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._what = ""

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, what: str, done: int, total: int) -> None:
        if not sys.stderr.isatty():
            return
        if what != self._what:
            from tqdm import tqdm

            self.__exit__()
            self._bar, self._what = tqdm(total=total, desc=what, unit="picture", file=sys.stderr, dynamic_ncols=True), what
        self._bar.update(done - self._bar.n)
