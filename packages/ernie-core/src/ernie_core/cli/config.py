"""``ernie config show|check|schema``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from ernie_core.cli.app import App, Parser
from ernie_core.config.load import to_plain, to_table
from ernie_core.config.run import TrainConfig
from ernie_core.config.schema import config_schema
from ernie_core.config.show import flat_origins, with_origins
from ernie_core.config.source import dotted


def main(argv: Sequence[str], app: App) -> int:
    options = _parse(argv)
    if options.verb == "schema":
        host = app.load_config(options.configs, options.set).host if options.configs else app.host
        app.out(json.dumps(config_schema(TrainConfig, host), indent=2))
        return 0
    loaded = app.load_config(options.configs, options.set)
    if options.verb == "check":
        steps = loaded.config.total_steps
        ok = {"ok": True, "steps": steps, "plugins": loaded.host.plugin_set()}
        app.out(json.dumps(ok, indent=2) if options.json else f"ok: {steps} steps, with {', '.join(loaded.host.plugin_set().values())}")
        return 0
    table = to_table(loaded.config)
    if options.json:
        origins = {dotted(key): where for key, where in flat_origins(table, loaded.origin)}
        app.out(json.dumps({"config": to_plain(loaded.config), "origins": origins}, indent=2, ensure_ascii=False))
    else:
        app.out(with_origins(table, loaded.origin))
    return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser("config", "Show, check or describe training configs.")
    verbs = parser.add_verbs()
    show = verbs("show", "The merged config with the origin of every value.")
    check = verbs("check", "Decode everything and ask every plugin; print all problems, exit code 2 if there are any.")
    schema = verbs("schema", "JSON Schema of a training config, with the options of all installed components.")
    for sub, count in ((show, "+"), (check, "+"), (schema, "*")):
        sub.add_argument("configs", nargs=count, metavar="CONFIG.toml", help="read left to right; later files override earlier ones")
        sub.add_argument("--set", action="append", default=[], metavar="A.B=VALUE", help="override one key")
    for sub in (show, check):
        sub.add_argument("--json", action="store_true", help="for programs")
    return parser.parse_args(list(argv))
