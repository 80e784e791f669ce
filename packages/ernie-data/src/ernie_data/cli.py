"""``ernie data build|status|query|report|inspect|sampling|taxonomy|shapes|verify-shapes``."""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from ernie_core.api import ConfigError, DataError
from ernie_data.category.verbs import add_taxonomy
from ernie_data.config import FolderConfig
from ernie_data.reading.verbs import add_build_inspection, add_reading, asks_about_a_build
from ernie_data.sampling.verbs import add_sampling
from ernie_data.shapes.profile import PROFILES, profile
from ernie_data.topdown.verbs import add_sft

if TYPE_CHECKING:
    from ernie_core.api import App
    from ernie_data.sources.scan import Picture

_DECODE_THREADS = 4


def main(argv: Sequence[str], app: App) -> int:
    """Exit code 0: done, 1: a check failed, 2: wrong input."""
    arguments = _parser().parse_args(argv)
    return arguments.run(arguments, app)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ernie data", description="Curated sets, ShapeBench sets and image folders.")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    build = _verb(verbs, "build", _build, "build a curated set from raw pictures; after a kill, the same command goes on")
    build.add_argument("config", type=Path, metavar="CONFIG.toml")
    build.add_argument("--out", type=Path, required=True, metavar="DIR")
    build.add_argument("--workers", type=_positive, metavar="N", help="processes (default: run.workers, or one per core)")
    build.add_argument("--verify", action="store_true", help="check the sha256 of everything that is there, and rebuild what is damaged")
    build.add_argument("--only", action="append", default=[], metavar="UNIT", help="throw this unit's output away and make it again")
    build.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a value of the config")
    build.add_argument("--json", action="store_true", help="print one JSON object")

    status = _verb(verbs, "status", _status, "what a build's output holds and how far it is")
    status.add_argument("folder", type=Path, metavar="DIR")
    status.add_argument("--verify", action="store_true", help="check the sha256 of every file")
    status.add_argument("--json", action="store_true", help="print one JSON object")

    add_sampling(verbs)
    add_taxonomy(verbs)
    add_sft(verbs)
    add_reading(verbs)

    shapes = _verb(verbs, "shapes", _write_shapes, "write a ShapeBench set as PNG files with metadata.jsonl")
    shapes.add_argument("--out", type=Path, required=True, metavar="DIR", help="must not exist, or hold the same set")
    shapes.add_argument("--profile", choices=sorted(PROFILES), default="quick")
    shapes.add_argument("--count", type=_positive, default=2000, metavar="N", help="pictures (default %(default)s)")
    shapes.add_argument("--size", type=_positive, default=32, metavar="PX", help="side in pixels, 16 to 256 (default %(default)s)")
    shapes.add_argument("--seed", type=int, default=0)
    shapes.add_argument("--split", choices=("train", "validation"), default="train")
    shapes.add_argument(
        "--defects",
        type=Path,
        metavar="PLAN.toml",
        help="write a raw set with planted defects and truth.jsonl instead; the plan sets everything else",
    )

    inspect = _verb(
        verbs, "inspect", _inspect, "what a build's output holds; of a raw folder: pictures, captions, buckets and every problem"
    )
    inspect.add_argument("folder", metavar="DIR")
    inspect.add_argument("--size", type=_positive, default=512, metavar="PX", help="stage size the buckets are for (default %(default)s)")
    inspect.add_argument("--multiple", type=_positive, default=16, metavar="PX", help="sides are multiples of it (default %(default)s)")
    inspect.add_argument("--decode", action="store_true", help="decode every picture instead of reading headers only")
    inspect.add_argument("--json", action="store_true", help="print one JSON object")
    add_build_inspection(inspect)

    verify = _verb(verbs, "verify-shapes", _verify_shapes, "check the verifier on clean, counterfactual, noisy and shifted pictures")
    verify.add_argument("--count", type=_positive, default=1000, metavar="N", help="scenes per profile (default %(default)s)")
    verify.add_argument("--profile", choices=sorted(PROFILES), action="append", help="default: all")
    verify.add_argument(
        "--size", type=_positive, default=32, metavar="PX", help="side in pixels, 32 to 256; 24 for quick alone (default %(default)s)"
    )
    verify.add_argument("--seed", type=int, default=0)
    verify.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _verb(
    verbs: argparse._SubParsersAction, name: str, run: Callable[[argparse.Namespace, App], int], summary: str
) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=summary, description=summary)
    parser.set_defaults(run=run)
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a positive number, found {text}")
    return value


def _build(arguments: argparse.Namespace, app: App) -> int:
    from ernie_data.build_command import build

    return build(arguments, app)


def _status(arguments: argparse.Namespace, app: App) -> int:
    from ernie_data.build_command import status

    return status(arguments, app)


def _write_shapes(arguments: argparse.Namespace, app: App) -> int:
    if arguments.defects is not None:
        return _write_defects(arguments, app)
    from ernie_data.shapes.writer import write_set

    chosen = profile(arguments.profile)
    written = write_set(arguments.out, chosen, count=arguments.count, size_px=arguments.size, seed=arguments.seed, split=arguments.split)
    what = "wrote" if written else "already there:"
    app.out(f"{arguments.out}: {what} {arguments.count} pictures of {arguments.size} px, profile {chosen.name}, split {arguments.split}")
    app.out(f"{len(chosen.seen())} triples seen, {len(chosen.held_out())} held out")
    return 0


def _write_defects(arguments: argparse.Namespace, app: App) -> int:
    from ernie_data.shapes.defects import plan_files, write_defective_set
    from ernie_data.shapes.entries import DefectPlan

    plan = app.read_config(arguments.defects, DefectPlan).config
    what = "wrote" if write_defective_set(arguments.out, plan) else "already there:"
    defects = Counter(f.defect or "sound" for f in plan_files(plan))
    app.out(f"{arguments.out}: {what} {plan.count} files of {plan.size_px} px, profile {plan.profile}: {_counts(defects)}")
    return 0


def _inspect(arguments: argparse.Namespace, app: App) -> int:
    if asks_about_a_build(arguments):
        from ernie_data.reading.inspect import inspect_build

        return inspect_build(arguments, app)
    from ernie_data.buckets import bucket_sizes, nearest_bucket
    from ernie_data.sources.scan import UNREADABLE, scan_folder

    config = FolderConfig(path=arguments.folder)
    sizes = bucket_sizes(arguments.size, multiple_px=arguments.multiple, max_aspect=config.max_aspect)
    scan = scan_folder(config)
    if arguments.decode:
        for error in _decode_all(scan.pictures, config):
            scan.add(UNREADABLE, str(error))
    buckets = Counter(nearest_bucket(*p.size_px, sizes) for p in scan.pictures)
    styles = Counter(style for p in scan.pictures for style in p.captions)
    small = sum(min(p.size_px) < arguments.size / 2 for p in scan.pictures)
    if arguments.json:
        report = {
            "pictures": len(scan.pictures),
            "styles": dict(sorted(styles.items())),
            "buckets": {f"{w}x{h}": n for (w, h), n in sorted(buckets.items())},
            "small": small,
            "problems": {kind.format(n=len(places)): places for kind, places in scan.problems.items()},
        }
        app.out(json.dumps(report, ensure_ascii=False))
    else:
        app.out(f"{arguments.folder}: {len(scan.pictures)} pictures with captions; styles: {_counts(styles) or 'none'}")
        app.out(f"buckets at {arguments.size} px: {_counts({f'{w}x{h}': n for (w, h), n in sorted(buckets.items())}) or 'none'}")
        if small:
            app.out(f"{small} pictures have a side below {arguments.size // 2} px and will be enlarged more than twice")
        if not scan.problems:
            app.out("no problems found")
    if scan.problems:
        raise DataError(scan.report(Path(arguments.folder)))
    return 0


def _counts(counts: Counter[str] | dict[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in sorted(counts.items()))


def _decode_all(pictures: Sequence[Picture], config: FolderConfig) -> list[DataError]:
    from ernie_data.images import decode

    def attempt(picture: Picture) -> DataError | None:
        try:
            decode(Path(config.path) / picture.key, bucket=(16, 16), max_pixels=config.max_megapixels * 1_000_000)
        except DataError as error:
            return error
        return None

    with ThreadPoolExecutor(_DECODE_THREADS) as threads:
        return [error for error in threads.map(attempt, pictures) if error is not None]


def _verify_shapes(arguments: argparse.Namespace, app: App) -> int:
    from ernie_data.shapes.render import MAX_SIZE_PX
    from ernie_data.shapes.trials import NOISE_SIGMA, run_trials

    names = arguments.profile or list(PROFILES)
    for name in names:
        lowest = profile(name).verified_from_px
        if not lowest <= arguments.size <= MAX_SIZE_PX:
            raise ConfigError(f"--size {arguments.size}: profile {name} is verified from {lowest} to {MAX_SIZE_PX} px")
    results = {}
    for name in names:
        started = time.monotonic()
        trials = run_trials(profile(name), count=arguments.count, size_px=arguments.size, seed=arguments.seed)
        results[name] = trials
        if not arguments.json:
            n = trials.count
            app.out(f"{name}, {arguments.size} px, {time.monotonic() - started:.1f} s: {'passed' if trials.passed() else 'FAILED'}")
            app.out(f"  clean renders judged right          {trials.clean_right}/{n}")
            app.out(f"  counterfactual captions accepted    {trials.counterfactuals_accepted}/{n}")
            app.out(f"  right under noise of sigma {NOISE_SIGMA}     {trials.noisy_right}/{n}")
            app.out(f"  right when shifted by one pixel     {trials.shifted_right}/{n}")
            for line in trials.wrong:
                app.err(f"  {line}")
    if arguments.json:
        fields = ("count", "clean_right", "counterfactuals_accepted", "noisy_right", "shifted_right")
        app.out(json.dumps({name: {f: getattr(t, f) for f in fields} for name, t in results.items()}))
    return 0 if all(t.passed() for t in results.values()) else 1
