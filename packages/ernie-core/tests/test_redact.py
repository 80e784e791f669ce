"""S3: secrets in 40 formats and more leave by none of the ways text leaves ernie. The secrets are put together here, so that no scanner finds one."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ernie_core import redact as redact_module
from ernie_core.cli import app as app_module
from ernie_core.cli import doctor
from ernie_core.cli.main import main
from ernie_core.config.run import ModelTable
from ernie_core.errors import WeightsError
from ernie_core.plugins.hookspecs import hookimpl
from ernie_core.plugins.host import PluginHost
from ernie_core.plugins.observers import HookCaller
from ernie_core.plugins.registry import Failed
from ernie_core.redact import HIDDEN, RedactedStream, redact, sounds_secret

A = "Zx9Kq4Lm2Rt7Vb5Nw8Yc3Hd6Pf1Gs0Ja"  # 32 letters and digits
H = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"  # 32 hex digits

FORMATS: dict[str, str] = {
    "hugging face": "hf_" + A,
    "hugging face organisation": "api_org_" + A,
    "openai": "sk-" + A,
    "openai project": "sk-proj-" + A + "-" + A,
    "anthropic": "sk-ant-api03-" + A,
    "openrouter": "sk-or-v1-" + H,
    "aws key id": "AKIA" + "ABCDEFGH12345678",
    "aws session id": "ASIA" + "ABCDEFGH12345678",
    "github personal": "ghp_" + A,
    "github oauth": "gho_" + A,
    "github server": "ghs_" + A,
    "github fine-grained": "github_pat_" + A,
    "gitlab": "glpat-" + A[:20],
    "slack bot": "xoxb-" + "123456789012-" + A[:24],
    "slack webhook": "https://hooks.slack.com/services/" + "T00000000/B00000000/" + A[:24],
    "discord webhook": "https://discord.com/api/webhooks/" + "123456789012345678/" + A,
    "google api": "AIza" + A + "abc",
    "google oauth": "ya29." + A,
    "google client": "GOCSPX-" + A[:28],
    "npm": "npm_" + A + "abcd",
    "pypi": "pypi-" + "AgEIcHlwaS5vcmc" + A,
    "docker": "dckr_pat_" + A[:27],
    "stripe": "sk_live_" + A,
    "stripe hook": "whsec_" + A,
    "sendgrid": "SG." + A[:22] + "." + A,
    "json web token": "eyJ" + A[:20] + ".eyJ" + A[:20] + "." + A,
    "vault": "hvs." + A,
    "databricks": "dapi" + H,
    "digitalocean": "dop_v1_" + H + H,
    "replicate": "r8_" + A,
    "groq": "gsk_" + A,
    "xai": "xai-" + A,
    "nvidia": "nvapi-" + A,
    "age": "AGE-SECRET-KEY-1" + A.upper(),
    "shopify": "shpat_" + H,
    "notion": "ntn_" + A + "abc",
    "telegram": "1234567890:AA" + A + "a",
    "alibaba": "LTAI" + A[:20],
    "baidu": "bce-v3/ALTAK-" + A[:21] + "/" + H,
    "weights and biases": "wandb_v1_" + A,
    "bearer header": "Authorization: Bearer " + A,
    "basic header": "Authorization: Basic " + A + "==",
    "address with password": "https://user:" + A + "@example.org/repo",
    "address with token": "https://" + A + "@example.org/repo",
    "private key": "-----BEGIN RSA PRIVATE KEY-----\nMIIE" + A + "\n" + A + "\n-----END RSA PRIVATE KEY-----",
    "unfinished private key": "-----BEGIN OPENSSH PRIVATE KEY-----\n" + A,
    "assigned key": "OPENAI_API_KEY=" + A,
    "assigned password": 'password = "' + A + '"',
    "aws secret": "aws_secret_access_key = " + A,
    "azure": "DefaultEndpointsProtocol=https;AccountKey=" + A + "==",
    "signed address": "https://x.blob.example.net/a?sv=1&sig=" + A,
    "in json": json.dumps({"api_key": A}),
    "in escaped json": json.dumps(json.dumps({"token": A})),
}


def hidden(text: str) -> bool:
    """Whether nothing of a secret's body is left, neither whole nor half."""
    return not any(body[i : i + 12] in text for body in (A, A.upper(), H, "ABCDEFGH12345678") for i in range(0, len(body) - 11, 4))


@pytest.fixture
def run(monkeypatch, capfd) -> Callable[..., str]:
    """Run ``ernie`` with a verb ``leak`` that calls the given function; everything it printed."""
    host = PluginHost.discover(plugins=False)

    def run(arguments: list[str], *, action: Callable[[], object] | None = None, failed: str = "") -> str:
        failures = (Failed("leaky", failed, "1.0", "import", failed),) if failed else ()
        shown = PluginHost(host.plugins, failures, (), (), host.registries, host.hooks)
        monkeypatch.setattr(app_module.PluginHost, "discover", lambda **_: shown)
        if action is not None:
            monkeypatch.setattr(doctor, "examine", lambda _: action())
        assert main(arguments) in (0, 1, 2)
        captured = capfd.readouterr()
        return captured.out + captured.err

    return run


def raise_chained(secret: str) -> None:
    try:
        raise OSError(f"cannot fetch: {secret}")
    except OSError as error:
        raise RuntimeError(f"retry failed: {secret}") from error


def raise_error(secret: str) -> None:
    raise WeightsError(f"cannot read {secret} here")


def log(secret: str) -> dict[str, str]:
    logger = logging.getLogger("leak")
    handler = logging.StreamHandler()
    logger.addHandler(handler)
    logger.error("sent %s", secret)
    logger.removeHandler(handler)
    print(warnings.formatwarning(f"careful: {secret}", UserWarning, "x.py", 1), file=sys.stderr)
    print(f"note {secret}", file=sys.stderr)
    raise WeightsError("done")


def write(path: Path, secret: str) -> Path:
    path.write_text(f"[samples]\nprompts = [{json.dumps('see ' + secret)}]\n{json.dumps(secret)} = {json.dumps(secret)}\n")
    return path


PATHS: dict[str, Callable[[str, Callable[..., str], Path], str]] = {
    "an error of a command": lambda s, run, _: run(["doctor"], action=lambda: raise_error(s)),
    "a chain of exceptions": lambda s, run, _: run(["doctor"], action=lambda: raise_chained(s)),
    "logs and warnings": lambda s, run, _: run(["doctor"], action=lambda: log(s)),
    "usage errors": lambda s, run, _: run([s]) + run(["config", "check", s, "--" + s]),
    "problems of a config": lambda s, run, tmp: run(["config", "check", str(write(tmp / "c.toml", s))]),
    "values given by --set": lambda s, run, tmp: run(["config", "show", str(write(tmp / "c.toml", "x")), "--set", f"data.path={s}"]),
    "reasons of a failed plugin": lambda s, run, _: run(["plugins", "check", "leaky", "--json"], failed=s) + run(["nonsense"], failed=s),
    "observers that raise": lambda s, run, _: run(["doctor"], action=lambda: observe(s)),
}


def observe(secret: str) -> None:
    class Observer:
        @hookimpl
        def ernie_run_finished(self, step: int) -> None:
            raise RuntimeError(secret)

    HookCaller([("leaky", Observer())]).observe("ernie_run_finished", run=None, step=1, reason="done")
    raise WeightsError("done")


def test_there_are_at_least_forty_formats_and_eight_paths():
    assert len(FORMATS) >= 40
    assert len(PATHS) >= 8


@pytest.mark.parametrize("path", PATHS)
def test_no_secret_of_any_format_leaves_by(path, run, tmp_path):
    leaks = []
    for name, secret in FORMATS.items():
        printed = PATHS[path](secret, run, tmp_path)
        assert printed.strip(), name
        if not hidden(printed):
            leaks.append((name, printed))
    assert not leaks
    print(f"S3: {len(FORMATS)} formats by {path}")


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_is_hidden_and_the_text_around_it_stays(name):
    shown = redact(f"before {FORMATS[name]} after", environ={})
    assert hidden(shown)
    assert shown.startswith("before ")
    assert HIDDEN in shown
    assert shown.endswith(" after") or name == "unfinished private key"


def test_a_config_with_a_secret_starts_no_run_and_leaves_no_folder(tmp_path, capfd):
    for name, secret in FORMATS.items():
        config = write(tmp_path / "c.toml", secret)
        assert main(["--no-plugins", "train", str(config), "--out", str(tmp_path / "run")]) == 2, name
        assert not (tmp_path / "run").exists()
        assert hidden("".join(capfd.readouterr())), name


def test_a_config_built_in_code_is_checked_for_secrets_too():
    host = PluginHost.discover(plugins=False)
    (problem,) = host.check_config(ModelTable(init="https://user:" + A + "@example.org/model"))
    assert problem.message.startswith("`init`: a config must not hold secrets")
    assert hidden(str(problem))


def test_values_of_secret_environment_variables_are_hidden_whatever_their_shape():
    environ = {"MY_TOKEN": "plainword1", "HF_TOKEN_PATH": "/home/x/token", "PWD": "/home/user/x", "SHORT_TOKEN": "1"}
    assert redact("a plainword1 in /home/user/x 1 and /home/x/token", environ) == f"a {HIDDEN} in /home/user/x 1 and /home/x/token"


@pytest.mark.parametrize(
    "text",
    [
        "run.toml:14: unknown key `optimizer.learning_rat`; did you mean `learning_rate`?",
        f"sha256 differs (expected {H}{H}, found {H}{H})",
        "`api_key`: a config must not hold secrets",
        "the tokenizer is ministral3: 256 tokens, max_tokens = 512, token_count=1024",
        "Basic usage of bearer bonds; a basic understanding of signature: expected arguments",
        "a prompt: my password is a secret, sk-8, hf_home, https://example.org/a?b=c#d",
        '{"step": 3, "loss": 0.123456789012345, "key": "image-0001"}',
        "https://user@example.org/x and git@github.com:owner/name.git",
        "torch 2.15.0+cu130, /home/user/.cache/huggingface/token, data-000123.tar, api_key_env",
        "transformer_blocks.12.attention.to_q.weight: expected [4096, 4096], found [4096, 2048]",
    ],
)
def test_ordinary_text_stays_as_it_is(text):
    assert redact(text, environ={}) == text


def test_json_stays_json():
    for value in (
        {"api_key": "a\"b\\c'd" + A},
        {"note": f'password = "{A}"'},
        {"x": json.dumps({"token": 'q"' + A})},
        [f"token='{A}'", "next"],
    ):
        text = redact(json.dumps(value), environ={})
        json.loads(text)
        assert hidden(text)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("HF_TOKEN", True), ("api_key", True), ("AWS_SECRET_ACCESS_KEY", True), ("db-password", True), ("secret", True), ("tokenizer", False),
     ("max_tokens", False), ("api_key_env", False), ("PWD", False), ("OLDPWD", False), ("keys", False), ("passwords_file", False)],
)  # fmt: skip
def test_which_names_sound_secret(name, expected):
    assert sounds_secret(name) is expected


def test_a_redacted_stream_is_otherwise_the_stream_it_wraps(tmp_path):
    with open(tmp_path / "log", "w") as file:
        stream = RedactedStream(file)
        assert stream.write("x hf_" + A) == 2 + 3 + len(A)
        stream.writelines(["\n", "y\n"])
        assert stream.name == file.name
    assert (tmp_path / "log").read_text() == f"x {HIDDEN}\ny\n"


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "unit", ["a1", "a_", "token_", "eyJ", "sk-", '\\"', "://a:", "password=", "-----BEGIN PRIVATE KEY-----", "Bearer ", "SG.a"]
)
def test_long_texts_are_searched_in_linear_time(unit):
    redact(unit * (200_000 // len(unit)), environ={})


SNIPPETS = st.sampled_from(
    ["api_key", "API-Key", "accesskeys", "secret", "xsecret", "Password", "token", '"token":', "sig", "design=", "pwd", "credentials", "=", ":", " ", "\n",
     '"', "'", "\\", "abcdef123456", "value", "Bearer ", "Authorization: ", "https://", "u:pw@h", "\u017fecret", "\u0130", "s\u0131g", "\u212aey", "\u4e2d"]
)  # fmt: skip


@given(st.lists(SNIPPETS, max_size=14).map("".join))
def test_what_is_looked_for_first_hides_what_the_patterns_alone_would_hide(text):
    whole = redact_module._URL_USER.sub(HIDDEN, text)
    whole = redact_module._HEADER.sub(rf"\1{HIDDEN}", whole)
    whole = redact_module._SCHEME.sub(rf"\1{HIDDEN}", whole)
    assert redact(text, environ={}) == redact_module._ASSIGNED.sub(redact_module._hide_value, whole)


def test_rows_of_numbers_are_searched_for_words_and_not_character_by_character(monkeypatch):
    tried = []

    class Counted:
        def match(self, text, start):
            tried.append(start)

        def sub(self, replacement, text):
            raise AssertionError("the pattern was tried at each character")

    monkeypatch.setattr(redact_module, "_ASSIGNED", Counted())
    text = json.dumps({"key": "a/b.png", "embedding": [0.123456789] * 768, "caption": "a design"})
    assert redact(text, environ={}) == text
    assert len(tried) == 1  # "sig" of "design"
