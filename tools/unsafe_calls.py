"""Calls that product code may not make: file writes that bypass ``ernie_core.io``, and readers that run code from a file.

A write is durable only if it goes temporary name, fsync, rename, fsync of the folder, as ``ernie_core.io`` does. What need not survive
a crash (a scratch file, a buffer in memory) says so in a comment on the statement: ``# durable: <reason>``.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from source_tree import Finding, Module
from workspace import CORE

WRITER = "io.py"  # of ernie-core: the one module that may write
FOR_TESTS = "testing/"  # of ernie-core: writes folders that tests throw away

WRITING_MODULE_CALLS = {
    "np.save",
    "np.savez",
    "np.savez_compressed",
    "np.savetxt",
    "numpy.save",
    "numpy.savez",
    "numpy.savez_compressed",
    "numpy.savetxt",
    "os.link",
    "os.rename",
    "os.renames",
    "os.replace",
    "os.symlink",
    "shutil.copy",
    "shutil.copy2",
    "shutil.copyfile",
    "shutil.copyfileobj",
    "shutil.copytree",
    "shutil.move",
}
WRITING_METHODS = {"write_text", "write_bytes", "save_file", "save_model", "save_pretrained", "rename", "hardlink_to", "symlink_to"}
OPENERS = {
    "open",
    "gzip.open",
    "bz2.open",
    "lzma.open",
    "io.open",
    "tarfile.open",
    "codecs.open",
    "os.fdopen",
    "zipfile.ZipFile",
    "ZipFile",
}
CODE_RUNNING_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
CODE_RUNNING_CALLS = {"torch.load", "torch.save", "torch.hub.load", "torch.jit.load", "yaml.load", "yaml.unsafe_load"}
UNSAFE_WHEN_TRUE = {"trust_remote_code", "allow_pickle"}


def check(module: Module) -> Iterator[Finding]:
    for imported in module.imports:
        if imported.target.partition(".")[0] in CODE_RUNNING_MODULES:
            yield module.finding(
                imported.line, f"imports `{imported.target}`: such a file runs code when it is read; use safetensors and JSON"
            )
    buffers, ours = _buffers(module.tree), _names_of_our_io(module.tree)
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Call):
            continue
        if danger := _runs_code(node):
            yield module.finding(node.lineno, danger)
        how = "" if _calls_one_of(node, ours) else _writes(node, buffers)
        if how and not _may_write(module) and not module.excuse(node, "durable"):
            yield module.finding(
                node.lineno, f"{how} writes past ernie_core.io; use its functions, or say `# durable: <reason>` why this file may be lost"
            )


def _may_write(module: Module) -> bool:
    return module.member.name == CORE and (module.inside == WRITER or module.inside.startswith(FOR_TESTS))


def _runs_code(node: ast.Call) -> str:
    called = ast.unparse(node.func)
    if called in CODE_RUNNING_CALLS:
        return f"calls `{called}`: it can run code from a file; use safetensors"
    if isinstance(node.func, ast.Attribute) and node.func.attr == "extractall":
        return "calls `extractall`: an archive may write outside its folder; check and extract member by member"
    for keyword in node.keywords:
        false = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
        if keyword.arg in UNSAFE_WHEN_TRUE and not false:
            return f"passes `{keyword.arg}`: it runs code that came with a file"
        if keyword.arg == "weights_only" and not (isinstance(keyword.value, ast.Constant) and keyword.value.value is True):
            return "passes `weights_only` other than True: it runs code that came with a file"
    return ""


def _writes(node: ast.Call, buffers: set[str]) -> str:
    """How a call writes a file, for the message, or "". Methods are known by name alone, so a name is listed only where it is telling."""
    called = ast.unparse(node.func)
    if called in WRITING_MODULE_CALLS:
        return f"`{called}`" if not _to_buffer(node, buffers) else ""
    if called in OPENERS:
        return f"`{called}` with mode {mode!r}" if (mode := _mode(node, place=1)) else ""
    if called == "os.open" and any(flag in ast.unparse(node) for flag in ("O_WRONLY", "O_RDWR", "O_CREAT", "O_APPEND")):
        return "`os.open` for writing"
    if isinstance(node.func, ast.Name) and node.func.id in {"save_file", "save_model", "copyfile", "copytree", "copy2"}:
        return f"`{node.func.id}`"
    if not isinstance(node.func, ast.Attribute):
        return ""
    method = node.func.attr
    if method in WRITING_METHODS:
        return f"`.{method}(...)`"
    if method == "open":
        return "`.open` for writing" if _opens_for_writing(node) else ""
    if method == "replace" and len(node.args) == 1 and not node.keywords:
        return "`.replace(target)`"  # one argument: Path.replace; str.replace takes two
    if method == "save" and node.args and not _to_buffer(node, buffers):
        return "`.save(...)`"
    return ""


def _mode(node: ast.Call, *, place: int) -> str:
    """The mode of an opening call if it can write, else "". A mode that is not a constant counts as writing."""
    given = next((k.value for k in node.keywords if k.arg == "mode"), node.args[place] if len(node.args) > place else None)
    if given is None:
        return ""
    if not isinstance(given, ast.Constant):
        return ast.unparse(given)
    return given.value if isinstance(given.value, str) and set(given.value) & set("wax+") else ""


def _opens_for_writing(node: ast.Call) -> bool:
    """Whether ``x.open("w")`` or ``x.open(mode="w")`` writes. Other objects have an ``open(path)`` too, so only a literal mode counts."""
    given = [*node.args[:1], *(k.value for k in node.keywords if k.arg == "mode")]
    modes = [value.value for value in given if isinstance(value, ast.Constant) and isinstance(value.value, str)]
    return any(re.fullmatch(r"[rwaxbt+]{1,3}", mode) and set(mode) & set("wax+") for mode in modes)


def _names_of_our_io(tree: ast.Module) -> set[str]:
    """What ``ernie_core.io`` is called in the module."""
    froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == "ernie_core"]
    return {alias.asname or alias.name for node in froms for alias in node.names if alias.name == "io"}


def _calls_one_of(node: ast.Call, modules: set[str]) -> bool:
    return isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name) and node.func.value.id in modules


def _buffers(tree: ast.Module) -> set[str]:
    """Names that are bound to an in-memory file somewhere in the module."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and _is_buffer(node.value):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.NamedExpr) and _is_buffer(node.value) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
        elif isinstance(node, ast.withitem) and _is_buffer(node.context_expr) and isinstance(node.optional_vars, ast.Name):
            names.add(node.optional_vars.id)
    return names


def _is_buffer(value: ast.expr) -> bool:
    return isinstance(value, ast.Call) and ast.unparse(value.func).rpartition(".")[2] in {"BytesIO", "StringIO"}


def _to_buffer(node: ast.Call, buffers: set[str]) -> bool:
    return bool(node.args) and isinstance(node.args[0], ast.Name) and node.args[0].id in buffers
