"""Each wheel alone: build it, install it into a fresh environment with only what it declares, and use it there.

    python tools/smoke.py [--full] [--package NAME ...]

Without --full: base dependencies only, so no torch. Every light module is imported, the command answers, and a config is checked.
With --full: also the `train` extra. Every module is imported, and the commands train, resume, sample and export on a small input.

The workspace hides undeclared imports, because everything is installed in it; here only what pyproject.toml names is. Versions come from uv.lock.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from packaging.requirements import Requirement

from check_boundaries import UNDECLARED, import_names, is_light, third_party
from source_tree import Module, read_modules
from workspace import ROOT, Member, read_members

TIMEOUT_S = 900

IMPORT = """
import importlib, json, sys
names, heavy, optional = json.loads(sys.argv[1])
for name in names:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in optional:
            raise SystemExit(f"importing {name}: {error}")
        print(f"  {name}: needs {error.name}, which is not installed")
loaded = sorted(set(heavy) & set(sys.modules))
if loaded:
    raise SystemExit(f"importing light modules loaded {', '.join(loaded)}")
print(f" {len(names)} modules imported")
"""

CONFIG = """
codec = { use = "pixel", patch = 8 }
encoder = { use = "bytes", width = 32 }
data = { use = "shapes" }

[model]
hidden_size = 32
num_attention_heads = 2
num_layers = 2
ffn_hidden_size = 64

[[stages]]
size_px = 32
steps = 4
batch_size = 4

[checkpoint]
every_steps = 2
"""
BUILD = """
unit_rows = 8
sources = [{ use = "folder", path = "raw" }]
stages = [
  { use = "decode" }, { use = "size", size_px = 32 }, { use = "hashes" }, { use = "score", scorer = { use = "shapes-quality" } },
  { use = "duplicates" }, { use = "embed" }, { use = "category", leaves = 2 }, { use = "agreement" }, { use = "select", where = "score > 3", name = "good" },
]
index = { size_px = [32] }
"""
TRIALS: dict[str, tuple[tuple[str, ...], ...]] = {
    "ernie-align": (("align", "pairs", "--help"), ("plugins", "check", "align")),
    "ernie-distill": (("distill", "drift", "--help"), ("plugins", "check", "distill")),
    "ernie-data": (
        ("config", "check", "run.toml"),
        ("data", "shapes", "--out", "raw", "--count", "20"),
        ("data", "build", "build.toml", "--out", "built"),
        ("data", "query", "built", "select category, count(*) from items group by 1"),
        ("data", "report", "built", "--out", "report.html"),
    ),
}
"""What each package does with its base dependencies alone."""
SAMPLED = ("ernie-core", "ernie-data")
"""With --full: packages that can sample a picture without another one."""
HEAVY = ("torch", "diffusers", "transformers", "safetensors", "PIL", "tensorboard", "deepspeed")


class Environment:
    """A fresh virtual environment holding one wheel and what that declares."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        run("uv", "venv", "--quiet", "--python", sys.executable, folder)

    def install(self, member: Member, extras: Sequence[str], wheels: dict[str, Path], constraints: Path) -> None:
        wanted = [_from_wheel(name, asked, wheels) for name, asked in _closure(member, extras, wheels).items()]
        run("uv", "pip", "install", "--quiet", "--python", self.folder, "--constraints", constraints, *wanted)

    def python(self, *arguments: str, cwd: Path) -> str:
        return run(self.folder / "bin" / "python", "-I", *arguments, cwd=cwd)

    def ernie(self, *arguments: str, cwd: Path) -> str:
        return run(self.folder / "bin" / "ernie", *arguments, cwd=cwd)

    def has(self, module: str, *, cwd: Path) -> bool:
        return "True" in self.python("-c", f"import importlib.util; print(importlib.util.find_spec({module!r}) is not None)", cwd=cwd)


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """Run a command and return its output.

    Raises:
        SystemExit: it failed; shows the command and the end of what it said.
    """
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    if done.returncode:
        said = (done.stdout + done.stderr).strip()[-4000:]
        raise SystemExit(f"smoke: `{' '.join(str(part) for part in command)[:300]}` exited with {done.returncode}:\n{said}")
    return done.stdout


def build_wheels(members: Iterable[Member], out: Path) -> dict[str, Path]:
    wheels = {}
    for member in members:
        run("uv", "build", "--quiet", "--wheel", "--package", member.name, "--out-dir", out)
        (wheels[member.name],) = out.glob(f"{member.import_name}-{member.version}-*.whl")
    return wheels


def lock_constraints(path: Path) -> Path:
    """uv.lock's versions, so that an environment here gets what the workspace has."""
    text = run(
        "uv", "export", "--quiet", "--locked", "--all-extras", "--all-packages", "--no-hashes", "--no-emit-workspace", "--no-annotate"
    )
    path.write_text(text, encoding="utf-8")
    return path


def _closure(member: Member, extras: Sequence[str], wheels: dict[str, Path]) -> dict[str, set[str]]:
    """The member and the members it declares, each with the extras asked of it."""
    asked = {member.name: set(extras)}
    requirements: list[Requirement] = [*member.base, *(r for extra in extras for r in member.extras.get(extra, ()))]
    for requirement in requirements:
        if requirement.name in wheels:
            asked.setdefault(requirement.name, set()).update(requirement.extras)
    return asked


def _from_wheel(name: str, extras: set[str], wheels: dict[str, Path]) -> str:
    return f"{name}{'[' + ','.join(sorted(extras)) + ']' if extras else ''} @ {wheels[name].as_uri()}"


def check_base(member: Member, environment: Environment, modules: dict[str, Module], work: Path) -> None:
    """What needs no extra imports without one; help and plugin list answer, and so does what the package is for."""
    asked = any(requirement.name == "torch" for requirement in member.base)  # of a package that is nothing without it
    for heavy in () if asked else ("torch", "diffusers", "transformers"):
        if environment.has(heavy, cwd=work):
            raise SystemExit(f"smoke: {member.name} without extras installed {heavy}")
    own = [module for module in modules.values() if module.member is member]
    light = sorted(module.name for module in own if is_light(module))
    print("  light:" + environment.python("-c", IMPORT, json.dumps([light, HEAVY, []]), cwd=work), end="")
    base = sorted(module.name for module in own if _needs_base_only(module, modules))
    print("  base: " + environment.python("-c", IMPORT, json.dumps([base, [], []]), cwd=work), end="")
    expect("usage: ernie", environment.ernie("--help", cwd=work))
    expect(
        f"{member.name} {member.version}" if _is_plugin(member) else "", environment.ernie("plugins", "check", cwd=work).replace("  ", " ")
    )
    environment.ernie("doctor", cwd=work)
    (work / "run.toml").write_text(CONFIG, encoding="utf-8")
    (work / "build.toml").write_text(BUILD, encoding="utf-8")
    for arguments in TRIALS.get(member.name, ()):
        environment.ernie(*arguments, cwd=work)
    done = ", ".join(" ".join(arguments[:2]) for arguments in TRIALS.get(member.name, ()))
    print(f"  help, plugins check, doctor{', ' if done else ''}{done}{'' if asked else ' without torch'}")


def _needs_base_only(module: Module, modules: dict[str, Module]) -> bool:
    """Whether everything that importing the module imports is in its package's base dependencies, or in theirs within the workspace."""
    members = {m.member.name: m.member for m in modules.values()}
    declared = [r.name for r in module.member.base]
    declared += [r.name for name in declared if name in members for r in members[name].base]
    provided = {imported for name in declared for imported in import_names(name)}
    return set(third_party(module, modules, {member.import_name for member in members.values()})) <= provided


def check_full(member: Member, environment: Environment, modules: dict[str, Module], work: Path) -> None:
    """Every module imports; the commands work on a small input."""
    names = sorted(name for name, module in modules.items() if module.member is member and module.name != f"{member.import_name}.__main__")
    print("  all:  " + environment.python("-c", IMPORT, json.dumps([names, [], [*UNDECLARED, "pytest", "hypothesis"]]), cwd=work), end="")
    if member.name not in SAMPLED:
        return
    if _is_plugin(member):
        environment.ernie("train", "run.toml", "--set", "run.steps=2", "--out", "run", cwd=work)
        environment.ernie("train", "run.toml", "--out", "run", cwd=work)
        checkpoint = "run"
    else:
        environment.python("-c", "from ernie_core.testing.tiny import tiny_pipeline; tiny_pipeline().save_pretrained('tiny')", cwd=work)
        environment.ernie("weights", "inspect", "tiny", cwd=work)
        checkpoint = "tiny"
    environment.ernie(
        "sample", "--checkpoint", checkpoint, "--prompt", "a red circle", "--steps", "2", "--size", "32x32", "--out", "one.png", cwd=work
    )
    if not (work / "one.png").read_bytes().startswith(b"\x89PNG"):
        raise SystemExit("smoke: `ernie sample` wrote no PNG")
    print(f"  {'trained, resumed and' if _is_plugin(member) else 'inspected and'} sampled")


def expect(part: str, text: str) -> None:
    if part not in text:
        raise SystemExit(f"smoke: expected {part!r} in:\n{text}")


def _is_plugin(member: Member) -> bool:
    return "entry-points.ernie" in member.pyproject.read_text(encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Build each wheel and use it alone in a fresh environment.")
    parser.add_argument("--full", action="store_true", help="also install the train extra, import everything, train and sample")
    parser.add_argument("--package", action="append", help="only this package; may be given several times")
    arguments = parser.parse_args(argv)
    members = read_members(ROOT)
    modules = read_modules(ROOT, members)
    with tempfile.TemporaryDirectory(prefix="ernie-smoke-") as temporary:
        folder = Path(temporary)
        wheels, constraints = build_wheels(members, folder / "dist"), lock_constraints(folder / "constraints.txt")
        for member in members:
            if arguments.package and member.name not in arguments.package:
                continue
            start = time.monotonic()
            print(f"{member.name} {member.version}: {wheels[member.name].name}")
            work = folder / f"work-{member.name}"
            work.mkdir()
            environment = Environment(folder / f"env-{member.name}")
            environment.install(member, (), wheels, constraints)
            check_base(member, environment, modules, work)
            if arguments.full:
                environment.install(member, tuple({"train"} & member.extras.keys()), wheels, constraints)
                check_full(member, environment, modules, work)
            print(f"  {time.monotonic() - start:.0f} s")
    print("smoke: ok")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
