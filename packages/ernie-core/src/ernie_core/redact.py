"""Hide secrets in text before it is printed, logged or stored. Light: ``re`` only.

Three nets, each alone enough for its kind: the shapes of known tokens; values assigned to a key that sounds secret; and the values of this process's
own environment variables that sound secret, whatever their shape. Hex digests and base64 of data are left alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, TextIO

HIDDEN = "[secret]"

# Prefixes are those that the issuers publish for secret scanners; lengths are lower bounds.
PREFIXES: dict[str, str] = {  # what follows the prefixes: the prefixes
    r"[A-Za-z0-9]{16,}": "hf_ api_org_ sk_live_ sk_test_ rk_live_ rk_test_ pk_live_ pk_test_ whsec_",  # Hugging Face, Stripe
    r"[A-Za-z0-9_-]{16,}": "sk- glpat- gldt- glrt- glcbt- glptt- glft- pypi- dckr_pat_ wandb_v1_",  # OpenAI, Anthropic, OpenRouter, GitLab
    r"[A-Za-z0-9_-]{20,}": "github_pat_ ya29. GOCSPX- hvs. hvb. hvr. gsk_ fw_ tgp_v1_ esecret_ xai- pplx- nvapi- rpa_ tvly- figd_ PMAK- glsa_",
    r"[A-Za-z0-9._-]{20,}": "dp.pt. dp.st. dp.ct. dp.sa. sntrys_ sntryu_",  # Doppler, Sentry
    r"[A-Za-z0-9]{20,}": "ghp_ gho_ ghu_ ghs_ ghr_ r8_ lin_api_ AGE-SECRET-KEY-1 NRAK-",  # GitHub, Replicate, Linear, age, New Relic
    r"[A-Za-z0-9-]{10,}": "xoxa- xoxb- xoxe- xoxp- xoxr- xoxs- xapp-",  # Slack
    r"[A-Z0-9]{16}\b": "AKIA ASIA AROA AIDA",  # AWS key ids
    r"[A-Za-z0-9_-]{30,}": "AIza npm_ ntn_ secret_",  # Google, npm, Notion
    r"[a-f0-9]{32,}": "dapi doo_v1_ dop_v1_ dor_v1_",  # Databricks, DigitalOcean
    r"[A-Fa-f0-9]{20,}": "shpat_ shpca_ shppa_ shpss_",  # Shopify
    r"[A-Za-z0-9]{12,}\b": "LTAI AKID",  # Alibaba Cloud, Tencent Cloud
    r"[A-Za-z0-9/_-]{16,}": "bce-v3/",  # Baidu Cloud
    r"[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}": "SG.",  # SendGrid
    r"[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}": "eyJ",  # JSON web tokens
}
OTHER_SHAPES: dict[str, str] = {  # a part that is always there: the whole
    "PRIVATE KEY": r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----|\Z)",
    "hooks.slack.com": r"https://hooks\.slack\.com/services/[A-Za-z0-9/_-]{10,}",
    "/api/webhooks/": r"https://(?:\w+\.)?discord(?:app)?\.com/api/webhooks/[\w/-]{10,}",
    ":AA": r"\b\d{8,10}:AA[A-Za-z0-9_-]{30,}",  # Telegram bots
}
# Looking for the literal part first costs a hundredth of searching for forty patterns.
_TOKENS = tuple(
    [(part, re.compile(whole, re.DOTALL)) for part, whole in OTHER_SHAPES.items()]
    + [(prefix, re.compile(rf"\b{re.escape(prefix)}{rest}")) for rest, prefixes in PREFIXES.items() for prefix in prefixes.split()]
)
_URL_USER = re.compile(r"(?<=://)[^\s/@:\"']*:[^\s/@\"']+(?=@)|(?<=://)[^\s/@:\"']{16,}(?=@)")
_HEADER = re.compile(r"(?i)\b((?:proxy-)?authorization[\"']?\s*[:=]\s*[\"']?(?:(?:bearer|basic|token|digest|negotiate)\s+)?)[^\s\"',;]{4,}")
_SCHEME = re.compile(r"(?i)\b((?:bearer|basic)\s+)(?=[A-Za-z0-9._~+/=-]*[\d=._])[A-Za-z0-9._~+/=-]{12,}")
_STRONG = r"(?:api|access|account|private|secret)[_-]?(?:access[_-]?)?keys?|password|passwd|passphrase|secret"
_WEAK = r"token|pwd|credentials?|signature|sig"  # in prose these words also come before a colon
_ASSIGNED = re.compile(
    rf"(?i)((?<![A-Za-z])(?:(?:{_STRONG})\\*[\"']?\s*[=:]|(?:{_WEAK})(?:\\*[\"']\s*:|\s*=))\s*)"
    # quoted, quoted with escaped quotes (JSON inside JSON), or bare; an unclosed quote hides the rest of the line
    r"""(?:(")(?:\\.|[^"\n\\])+|(')(?:\\.|[^'\n\\])+|(\\+["'])(?:(?!(?<!\\)\4)[^\n])+|[^\s"',;&<>()\[\]{}`\\]{6,})"""
)
_SOUNDS_SECRET = re.compile(rf"(?i)(?:^|[_.-])(?:{_STRONG}|(?:auth|access|refresh|session|api|bearer|bot|hub)?token|credentials?)$")
_ASSIGNED_BEGIN = ("api", "access", "account", "private", "secret", "passw", "passphrase", "token", "pwd", "credential", "sig")
"""Every match of ``_ASSIGNED`` begins with one of these: looking for them costs a tenth of trying the pattern at each character."""
_LIKE_ASCII = "\u0130\u0131\u017f"  # letters that patterns without case take for i and s, and ``lower`` does not
_ENVIRONMENT_MIN = 8  # shorter values ("1", "true", "admin") occur in ordinary text


def redact(text: str, environ: Mapping[str, str] | None = None) -> str:
    """The text with every secret replaced by ``[secret]``. ``environ`` defaults to this process's."""
    for name, value in (os.environ if environ is None else environ).items():
        if len(value) >= _ENVIRONMENT_MIN and sounds_secret(name) and value in text:
            text = text.replace(value, HIDDEN)
    for part, shape in _TOKENS:
        if part in text:
            text = shape.sub(HIDDEN, text)
    if "://" in text:
        text = _URL_USER.sub(HIDDEN, text)
    lower = text.lower()
    if len(lower) != len(text) or any(letter in text for letter in _LIKE_ASCII):
        return _ASSIGNED.sub(_hide_value, _SCHEME.sub(rf"\1{HIDDEN}", _HEADER.sub(rf"\1{HIDDEN}", text)))
    if "authorization" in lower:
        text = _HEADER.sub(rf"\1{HIDDEN}", text)
    if "bearer" in lower or "basic" in lower:
        text = _SCHEME.sub(rf"\1{HIDDEN}", text)
    return _hide_assigned(text)


def _hide_assigned(text: str) -> str:
    """``_ASSIGNED.sub(_hide_value, text)``, tried only where a match can begin. ``lower`` must keep the text's length."""
    lower = text.lower()
    parts, done = [], 0
    for start in sorted(place for word in _ASSIGNED_BEGIN for place in _places(lower, word)):
        if start >= done and (match := _ASSIGNED.match(text, start)) is not None:
            parts += [text[done:start], _hide_value(match)]
            done = match.end()
    return "".join([*parts, text[done:]])


def _places(text: str, word: str) -> Iterator[int]:
    place = text.find(word)
    while place >= 0:
        yield place
        place = text.find(word, place + 1)


def secrets_in(value: Any, path: str = "") -> Iterator[str]:
    """Paths of the secrets in plain tables and lists: values that have a secret's shape, and any text under a key that sounds secret."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            here = f"{path}.{name}" if path else str(name)
            if holds_secret(str(name)) or (isinstance(item, str) and item and sounds_secret(str(name))):
                yield here
            else:
                yield from secrets_in(item, here)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from secrets_in(item, f"{path}[{index}]")
    elif isinstance(value, str) and holds_secret(value):
        yield path


def holds_secret(value: str) -> bool:
    """Whether a value has the shape of a secret, or an address with a password in it. What merely sounds like one is no proof."""
    return any(part in value and shape.search(value) for part, shape in _TOKENS) or _URL_USER.search(value) is not None


@lru_cache(maxsize=4096)
def sounds_secret(name: str) -> bool:
    """Whether a key or variable of this name holds a secret: ``api_key``, ``HF_TOKEN``, but neither ``api_key_env`` nor ``max_tokens``."""
    return _SOUNDS_SECRET.search(name) is not None


def _hide_value(match: re.Match[str]) -> str:
    return match[1] + (match[2] or match[3] or match[4] or "") + HIDDEN


class RedactedStream:
    """A text stream that hides secrets in whatever is written through it. Everything else is the wrapped stream's."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(redact(text))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)
