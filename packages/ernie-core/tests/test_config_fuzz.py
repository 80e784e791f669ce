"""C1: a thousand damaged configs. Each is refused with file:line, key, what was expected and the nearest name, or decodes without losing a key."""

from __future__ import annotations

import random
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from ernie_core.cli import app as app_module
from ernie_core.cli.main import main
from ernie_core.config.load import load_config, to_plain
from ernie_core.plugins.host import PluginHost
from ernie_core.testing.plugin_folder import PluginFolder, plugins_in

COUNT = 1000
SOURCE = """
class Options(Config):
    path: str
    quality: float = 0.5
@hookimpl
def ernie_register_data_sources():
    yield Entry("toy-data", "for tests", Options, "json:dumps")
"""
# table, key, value, kind, required
LINES = [
    ("run", "seed", "3", "integer", False),
    ("run", "micro_batch_size", "2", "count", False),
    ("codec", "use", '"pixel"', "component", True),
    ("codec", "patch", "4", "count", False),
    ("encoder", "use", '"bytes"', "component", True),
    ("encoder", "width", "64", "count", False),
    ("data", "use", '"toy-data"', "component", True),
    ("data", "path", '"somewhere"', "text", True),
    ("data", "quality", "0.25", "number", False),
    ("model", "hidden_size", "64", "count", False),
    ("model", "num_attention_heads", "4", "count", False),
    ("model", "num_layers", "2", "count", False),
    ("model", "ffn_hidden_size", "128", "count", False),
    ("model", "rope_layout", '"standard"', "choice", False),
    ("[stages]", "size_px", "64", "count", True),
    ("[stages]", "steps", "10", "count", True),
    ("[stages]", "batch_size", "4", "count", True),
    ("optimizer", "learning_rate", "1e-3", "number", False),
    ("optimizer", "betas", "[0.9, 0.99]", "list", False),
    ("schedule", "kind", '"cosine"', "choice", False),
    ("schedule", "warmup_steps", "5", "count", False),
    ("checkpoint", "every_steps", "100", "count", False),
    ("samples", "prompts", '["a", "b"]', "list", False),
    ("samples", "sampler", '{ use = "heun" }', "table", False),
    ("logging", "tensorboard", "false", "flag", False),
]
HUGE = "9" * 30
BAD = {
    "integer": ['"3"', "1.5", "true", "[1]", "{ a = 1 }", "nan", HUGE, "2024-01-01"],
    "count": ['"3"', "1.5", "true", "-1", "[]", "{ }", "inf", HUGE, "-" + HUGE, "07:32:00"],
    "number": ['"0.5"', "true", "nan", "-inf", "1e999", "[0.5]", HUGE],
    "text": ["3", "true", "[]", "{ a = 1 }", "1.5"],
    "choice": ['"standart"', '"cosin"', "3", "true", "[]"],
    "component": ['"pixle"', '"byts"', '"toy-dat"', '"zzzz"', "3", "[]", "{ use = 3 }"],
    "list": ['"a"', "3", "{ a = 1 }", "[true, true]", "[[1], [2]]", "false"],
    "table": ['"heun"', "3", "[]", "{ }", '{ use = "huen" }', '{ use = "heun", order = 3 }', "{ uses = 1 }"],
    "flag": ['"false"', "0", "1", "[]", "nan"],
}
SYNTAX = ["null", "None", "{", "[1, ", '"open', "'open", "1 2", "yes", "0x", "1.", "=", "", "9" * 5000, "2024-13-01", '"\\q"', "\x01"]


class Case:
    """A config as lines, with the line of each key."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.at: list[int] = []
        table = None
        for where, key, value, _, _ in LINES:
            if where != table:
                self.lines.append(f"[{where}]")
                table = where
            self.at.append(len(self.lines))
            self.lines.append(f"{key} = {value}")

    @staticmethod
    def dotted(index: int) -> str:
        where, key = LINES[index][:2]
        return f"{where.replace('[stages]', 'stages[0]')}.{key}"

    def data(self) -> bytes:
        return ("\n".join(self.lines) + "\n").encode()


def misspell(word: str, rng: random.Random) -> str:
    at = rng.randrange(len(word))
    swapped = word[:at] + word[at + 1 : at + 2] + word[at] + word[at + 2 :]
    return rng.choice([word[:at] + word[at + 1 :], word[:at] + word[at] + word[at:], swapped, word + "s", word[:at] + "x" + word[at + 1 :]])


def damage(kind: str, rng: random.Random) -> tuple[bytes, list[str]]:
    """A damaged config and what must stand in the report, as regular expressions after the path."""
    case, index = Case(), rng.randrange(len(LINES))
    where, key, _, value_kind, _ = LINES[index]
    line = case.at[index] + 1
    if kind == "unknown key":
        index = rng.choice([i for i, row in enumerate(LINES) if len(row[1]) > 4])
        where, key, *_ = LINES[index]
        wrong = misspell(key, rng)
        if wrong in {row[1] for row in LINES if row[0] == where} or wrong == key:
            wrong = key[:-1] + "qq"
        case.lines[case.at[index]] = case.lines[case.at[index]].replace(key, wrong, 1)
        full = re.escape(Case.dotted(index)[: -len(key)] + wrong)
        return case.data(), [f":{case.at[index] + 1}: unknown key `{full}`; did you mean `{key}`\\?"]
    if kind == "strange key":
        case.lines.insert(line, f'"{rng.choice(["", "é", "$ref", "a.b", "__class__", "zzz"])}" = 1')
        return case.data(), [f":{line + 1}: unknown key `.*`; (known here: `|did you mean `)"]
    if kind == "unknown table":
        case.lines += [f"[{misspell('checkpoint', rng)}q]", "x = 1"]
        return case.data(), [f":{len(case.lines) - 1}: unknown key `.*`; did you mean `checkpoint`\\?"]
    if kind == "wrong type":
        case.lines[line - 1] = f"{key} = {rng.choice(BAD[value_kind])}"
        return case.data(), [
            f":{line}: (`{re.escape(Case.dotted(index))}.*`: |unknown key|missing key).*(expected|no \\w+|did you mean|known|option)"
        ]
    if kind == "missing":
        index = rng.choice([i for i, row in enumerate(LINES) if row[4]])
        del case.lines[case.at[index]]
        return case.data(), [f":\\d+: missing key `{re.escape(Case.dotted(index))}`: expected "]
    if kind == "syntax":
        case.lines[line - 1] = f"{key} = {rng.choice(SYNTAX)}"
        return case.data(), [":\\d+: not valid TOML: "]
    if kind == "repeated":
        case.lines.insert(line, case.lines[line - 1])
        return case.data(), [f":{line + 1}: not valid TOML: "]
    if kind == "nested":
        case.lines[line - 1] = f"{key}.deeper.still = 1"
        return case.data(), [f":{line}: (`{re.escape(Case.dotted(index))}.*`: |unknown key|missing key).*(expected|known|option)"]
    case.lines[line - 1] += "  # "
    data = ("\n".join(case.lines[:line])).encode() + rng.choice([b"\xff", b"\xc3(", b"\xed\xa0\x80", b"\xe9"])
    return data + ("\n" + "\n".join(case.lines[line:]) + "\n").encode(), [f":{line}: not UTF-8 text"]


KINDS = ["unknown key", "strange key", "unknown table", "wrong type", "missing", "syntax", "repeated", "nested", "encoding"]


@pytest.fixture
def plugin_folder(tmp_path: Path) -> Iterator[PluginFolder]:
    with plugins_in(tmp_path / "plugins") as folder:
        yield folder


@pytest.fixture
def one_host(plugin_folder, monkeypatch) -> PluginHost:
    """Discovering plugins a thousand times is not what is tested here."""
    plugin_folder.add("toy", SOURCE)
    host = PluginHost.discover(disable=["data"])
    monkeypatch.setattr(app_module.PluginHost, "discover", lambda **_: host)
    return host


def test_the_undamaged_config_is_accepted(one_host, tmp_path):
    path = tmp_path / "run.toml"
    path.write_bytes(Case().data())
    assert main(["config", "check", str(path)]) == 0


def test_damaged_configs_are_refused_with_place_key_expectation_and_nearest_name(one_host, tmp_path, capsys):
    rng = random.Random(20260101)
    path = tmp_path / "run.toml"
    seen: Counter[str] = Counter()
    for number in range(COUNT * 7 // 10):
        kind = KINDS[number % len(KINDS)]
        data, expected = damage(kind, rng)
        path.write_bytes(data)
        code = main(["config", "check", str(path)])
        captured = capsys.readouterr()
        context = f"{kind}\n{data.decode(errors='replace')}\n{captured.err}"
        assert code == 2, context
        assert captured.out == "", context
        assert "Traceback" not in captured.err, context
        for pattern in expected:
            assert re.search(re.escape(str(path)) + pattern, captured.err), f"{pattern}\n{context}"
        _every_line_has_a_place(captured.err, path, context)
        seen[kind] += 1
    print(f"C1: {sum(seen.values())} structured cases refused: {dict(seen)}")
    assert sum(seen.values()) == COUNT * 7 // 10


def test_random_bytes_in_configs_are_refused_or_decode_without_losing_a_key(one_host, tmp_path, capsys):
    rng = random.Random(20260102)
    path = tmp_path / "run.toml"
    seen: Counter[int] = Counter()
    for _ in range(COUNT * 3 // 10):
        data = bytearray(Case().data())
        for _ in range(rng.choice([1, 1, 2, 8])):
            at = rng.randrange(len(data))
            match rng.randrange(4):
                case 0:
                    data[at] = rng.randrange(256)
                case 1:
                    del data[at : at + rng.choice([1, 1, 5, 50])]
                case 2:
                    data[at:at] = rng.choice([b"\n", b'"', b"[", b"]", b"=", b"#", b".", b"0", b"\x00", "é".encode(), b"'''", b"{"])
                case _:
                    other = rng.randrange(len(data))
                    data[at:at] = data[other : other + 20]
        path.write_bytes(bytes(data))
        code = main(["config", "check", str(path)])
        captured = capsys.readouterr()
        context = f"{bytes(data)!r}\n{captured.err}"
        assert code in (0, 2), context
        assert "Traceback" not in captured.err, context
        if code == 2:
            _every_line_has_a_place(captured.err, path, context)
        else:
            plain = to_plain(load_config([path], [], one_host).config)
            _assert_contains(plain, tomllib.loads(path.read_text()), context)
        seen[code] += 1
    print(f"C1: {sum(seen.values())} random cases: {seen[2]} refused, {seen[0]} still valid with every key kept")
    assert seen[2] > seen[0] > 0


def _every_line_has_a_place(text: str, path: Path, context: str) -> None:
    for line in text.strip().split("\n"):
        assert re.match(re.escape(str(path)) + r":\d+: ", line), f"{line}\n{context}"


def _assert_contains(plain: object, written: object, context: str) -> None:
    if isinstance(written, dict):
        assert isinstance(plain, dict), context
        for key, value in written.items():
            assert key in plain, f"{key}\n{context}"
            _assert_contains(plain[key], value, context)
    elif isinstance(written, list):
        assert isinstance(plain, list), context
        assert len(plain) == len(written), context
        for one, other in zip(plain, written, strict=True):
            _assert_contains(one, other, context)
    else:
        assert plain == written or (written is False and plain is None), context
