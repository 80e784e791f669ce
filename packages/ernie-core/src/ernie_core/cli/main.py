"""``ernie``: finds the verb and runs it. Imports no torch, and no plugin unless the verb or the help needs one.

Exit codes: 0 done, 1 the run failed, 2 wrong input, 130 interrupted. Users see one line with cause and fix, never a traceback, unless ernie itself is at fault.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import metadata

from ernie_core.cli.app import App, UsageError
from ernie_core.cli.entries import ernie_register_commands
from ernie_core.errors import ErnieError, MissingComponent
from ernie_core.plugins.examine import resolve_build
from ernie_core.plugins.host import DISABLE_VARIABLE, disabled_by_environment
from ernie_core.plugins.missing import missing_package
from ernie_core.plugins.registry import did_you_mean
from ernie_core.redact import RedactedStream

INTERRUPTED = 130  # 128 + SIGINT, as shells have it

USAGE = f"""usage: ernie [--no-plugins] [--disable-plugins NAME,...] VERB ...

  --no-plugins              load nothing but ernie-core
  --disable-plugins NAMES   do not even import these plugins (also: {DISABLE_VARIABLE}=NAME,...)
  --version                 print the version
  -h, --help                print this; `ernie VERB --help` for one verb
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code. Never raises but for defects of the interpreter."""
    with contextlib.redirect_stdout(RedactedStream(sys.stdout)), contextlib.redirect_stderr(RedactedStream(sys.stderr)):
        try:
            code = _run(list(sys.argv[1:] if argv is None else argv))
            sys.stdout.flush()
            return code
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return INTERRUPTED
        except BrokenPipeError:
            return _reader_is_gone()
        except ErnieError as error:
            print(error, file=sys.stderr)
            return error.exit_code
        except SystemExit as error:  # argparse: 0 after --help, 2 after an error
            if isinstance(error.code, str):
                print(error.code, file=sys.stderr)
            return error.code if isinstance(error.code, int) else int(error.code is not None)
        except Exception:
            return _defect()


def _run(argv: list[str]) -> int:
    plugins, disable = True, list(disabled_by_environment())
    wants_help = not argv
    while argv and argv[0].startswith("-"):
        flag, equals, value = argv.pop(0).partition("=")
        if flag in ("-h", "--help"):
            wants_help = True
        elif flag == "--version":
            print(f"ernie-core {metadata.version('ernie-core')}")
            return 0
        elif flag == "--no-plugins":
            plugins = False
        elif flag == "--disable-plugins":
            if not equals:
                if not argv:
                    raise UsageError("ernie: --disable-plugins needs names, separated by commas")
                value = argv.pop(0)
            disable += [name.strip() for name in value.split(",") if name.strip()]
        else:
            known = ("--help", "--version", "--no-plugins", "--disable-plugins")
            raise UsageError(
                f"ernie: unknown option `{flag}`{did_you_mean(flag, known, '`')} Options of a verb stand after it; see `ernie --help`."
            )
    app = App(plugins=plugins, disable=disable)
    if wants_help or not argv:
        _print_help(app)
        return 0 if wants_help else 2
    verb, *rest = argv
    core = {command.name: command for command in ernie_register_commands()}
    if verb in core:
        distribution, load = "ernie-core", lambda: resolve_build(core[verb].build)
    else:
        if verb not in app.host.registries.get("commands", {}):
            raise MissingComponent(_unknown_verb(verb, app))
        distribution, load = app.host.offer("commands", verb).source.distribution, lambda: app.host.load("commands", verb)
    try:
        return _exit_code(load()(rest, app), verb)
    except ModuleNotFoundError as error:
        missing = missing_package(error, what=f"`ernie {verb}`", distribution=distribution)
        if missing is None:
            raise
        raise missing from error


def _exit_code(code: object, verb: str) -> int:
    if code is None or not isinstance(code, int):
        raise ErnieError(f"ernie {verb}: the command returned {code!r:.60}, expected an exit code")
    return code


def _print_help(app: App) -> None:
    host = app.host
    print(USAGE)
    print("verbs:")
    offers = sorted(host.registries.get("commands", {}).values(), key=lambda o: (o.source.plugin != "core", o.source.plugin))
    width = max(len(offer.entry.name) for offer in offers)
    for offer in offers:
        origin = "" if offer.source.plugin == "core" else f"  ({offer.source})"
        print(f"  {offer.entry.name:<{width}}  {offer.entry.summary}{origin}")
    if host.failures or host.conflicts:
        print(f"\n{len(host.failures)} plugins were skipped and {len(host.conflicts)} names withheld: see `ernie plugins check`")


def _unknown_verb(verb: str, app: App) -> str:
    known = app.host.commands()
    for conflict in app.host.conflicts:
        if (conflict.registry, conflict.name) == ("commands", verb):
            return str(conflict)
    text = f"ernie: no verb is called `{verb}`{did_you_mean(verb, known, '`')}"
    text += ("" if text.endswith("?") else ".") + f" Known: {', '.join(known)}."
    failed = [f for f in app.host.failures if ("commands", verb) in f.offers or not f.offers]
    return "\n".join([text, *map(str, failed)])


def _reader_is_gone() -> int:
    """Whoever read our stdout closed it (``ernie ... | head``): say nothing, and keep Python from complaining at exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # durable: the null device keeps nothing
    return 1


def _defect() -> int:
    print(
        traceback.format_exc() + "\nThis is a defect of ernie or of a plugin, not of your input. Please report it with the text above.",
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
