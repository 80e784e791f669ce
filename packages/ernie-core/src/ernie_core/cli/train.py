"""``ernie train CONFIG.toml... --out DIR``: train, or go on with what is in DIR."""

from __future__ import annotations

import os
import sys
import time

from ernie_core.cli.app import App, Parser
from ernie_core.cli.launch import launch

QUIET_S = 10.0  # without a terminal, progress lines come at most this often


def main(argv: list[str], app: App) -> int:
    parser = Parser("train", "Train, or go on with what is in --out.")
    parser.add_argument("configs", nargs="+", metavar="CONFIG.toml", help="read left to right; later files override earlier ones")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=VALUE", help="override one key")
    parser.add_argument("--out", required=True, metavar="DIR", help="run folder")
    parser.add_argument("--no-resume", action="store_true", help="refuse a folder that already holds checkpoints")
    parser.add_argument("--accept-plugins", action="store_true", help="go on although the plugin set differs from the checkpoint's")
    parser.add_argument("--nproc", type=int, default=None, metavar="N", help="start N ranks on this machine")
    options = parser.parse_args(argv)
    if options.nproc is not None and "WORLD_SIZE" not in os.environ:
        return launch(options.nproc, [sys.executable, "-m", "ernie_core.cli.main", *app.flags, "train", *argv])
    loaded = app.load_config(options.configs, options.set)
    from ernie_core.train.signals import EXIT_STOPPED
    from ernie_core.train.start import train

    with Progress(app) as progress:
        finished = train(
            loaded.config,
            host=loaded.host,
            out=options.out,
            resume=not options.no_resume,
            accept_plugins=options.accept_plugins,
            report=progress.report,
            on_step=progress.on_step,
        )
    if finished.reason == "signal":
        app.err(f"stopped by a signal at step {finished.step}; the state is saved. Run the same command again to go on.")
        return EXIT_STOPPED
    if int(os.environ.get("RANK", "0")) == 0:
        app.out(f"{options.out}: done at step {finished.step}")
    return 0


class Progress:
    """A bar on a terminal, else a line now and then, both on stderr."""

    def __init__(self, app: App) -> None:
        self._app, self._bar, self._last = app, None, 0.0
        self._terminal = sys.stderr.isatty() and int(os.environ.get("RANK", "0")) == 0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def report(self, text: str) -> None:
        if self._bar is not None:
            self._bar.set_postfix_str(text.partition(": ")[2] or text) if text.startswith("step ") and "loss" in text else self._bar.write(
                text, file=sys.stderr
            )
        elif not (text.startswith("step ") and "images_per_s" in text) or time.monotonic() - self._last > QUIET_S:
            self._last = time.monotonic()
            self._app.err(text)

    def on_step(self, step: int, total: int) -> None:
        if self._terminal:
            if self._bar is None:
                from tqdm import tqdm

                self._bar = tqdm(total=total, initial=step - 1, unit="step", file=sys.stderr, dynamic_ncols=True)
            self._bar.update(step - self._bar.n)
