"""Hide secrets in text before it is printed, logged or stored. Light: ``re`` only.

Three nets, each alone enough for its kind: the shapes of known tokens; values assigned to a key that sounds secret; and the values of this process's
own environment variables that sound secret, whatever their shape. Hex digests and base64 of data are left alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

HIDDEN = "[secret]"

# Prefixes are those that the issuers publish for secret scanners; lengths are lower bounds.
TOKENS: tuple[str, ...] = (
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----|\Z)",
    r"\b(?:hf|api_org)_[A-Za-z0-9]{16,}",  # Hugging Face
    r"\bsk-[A-Za-z0-9_-]{16,}",  # OpenAI, Anthropic, OpenRouter, DeepSeek
    r"\b(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{16}\b",  # AWS key ids
    r"\bgh[pousr]_[A-Za-z0-9]{20,}",  # GitHub
    r"\bgithub_pat_[A-Za-z0-9_]{20,}",
    r"\bgl(?:pat|dt|rt|cbt|ptt|ft)-[A-Za-z0-9_-]{16,}",  # GitLab
    r"\bxox[abeprs]-[A-Za-z0-9-]{10,}",  # Slack
    r"\bxapp-[A-Za-z0-9-]{10,}",
    r"https://hooks\.slack\.com/services/[A-Za-z0-9/_-]{10,}",
    r"https://(?:\w+\.)?discord(?:app)?\.com/api/webhooks/[\w/-]{10,}",
    r"\bAIza[A-Za-z0-9_-]{30,}",  # Google
    r"\bya29\.[A-Za-z0-9_-]{20,}",
    r"\bGOCSPX-[A-Za-z0-9_-]{20,}",
    r"\bnpm_[A-Za-z0-9]{30,}",
    r"\bpypi-[A-Za-z0-9_-]{16,}",
    r"\bdckr_pat_[A-Za-z0-9_-]{16,}",
    r"\b(?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]{16,}",  # Stripe
    r"\bwhsec_[A-Za-z0-9]{16,}",
    r"\bSG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}",  # SendGrid
    r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}",  # JSON web tokens
    r"\bhv[sbr]\.[A-Za-z0-9_-]{20,}",  # HashiCorp Vault
    r"\bdapi[a-f0-9]{32}\b",  # Databricks
    r"\bdo[opr]_v1_[a-f0-9]{32,}",  # DigitalOcean
    r"\br8_[A-Za-z0-9]{20,}",  # Replicate
    r"\b(?:gsk|fw|tgp_v1|esecret)_[A-Za-z0-9_-]{20,}",  # Groq, Fireworks, Together, Anyscale
    r"\b(?:xai|pplx|nvapi|rpa|tvly)-[A-Za-z0-9_-]{20,}",  # xAI, Perplexity, NVIDIA, RunPod, Tavily
    r"\bAGE-SECRET-KEY-1[A-Z0-9]{20,}",
    r"\bshp(?:at|ca|pa|ss)_[A-Fa-f0-9]{20,}",  # Shopify
    r"\blin_api_[A-Za-z0-9]{20,}",  # Linear
    r"\b(?:ntn|secret)_[A-Za-z0-9]{30,}",  # Notion
    r"\bfigd_[A-Za-z0-9_-]{20,}",
    r"\bPMAK-[A-Za-z0-9-]{20,}",  # Postman
    r"\bdp\.(?:pt|st|ct|sa)\.[A-Za-z0-9._-]{20,}",  # Doppler
    r"\bglsa_[A-Za-z0-9_]{20,}",  # Grafana
    r"\bsntry[su]_[A-Za-z0-9_=+/-]{20,}",
    r"\bNRAK-[A-Z0-9]{20,}",  # New Relic
    r"\b\d{8,10}:AA[A-Za-z0-9_-]{30,}",  # Telegram bots
    r"\bLTAI[A-Za-z0-9]{12,}\b",  # Alibaba Cloud
    r"\bAKID[A-Za-z0-9]{24,}\b",  # Tencent Cloud
    r"\bbce-v3/[A-Za-z0-9/_-]{16,}",  # Baidu Cloud
    r"\bwandb_v1_[A-Za-z0-9_-]{16,}",
)
_TOKENS = re.compile("|".join(f"(?:{t})" for t in TOKENS), re.DOTALL)
_URL_USER = re.compile(r"(?<=://)[^\s/@:\"']*:[^\s/@\"']+(?=@)|(?<=://)[^\s/@:\"']{16,}(?=@)")
_HEADER = re.compile(r"(?i)\b((?:proxy-)?authorization[\"']?\s*[:=]\s*[\"']?(?:(?:bearer|basic|token|digest|negotiate)\s+)?)[^\s\"',;]{4,}")
_SCHEME = re.compile(r"(?i)\b((?:bearer|basic)\s+)(?=[A-Za-z0-9._~+/=-]*[\d=._])[A-Za-z0-9._~+/=-]{12,}")
_STRONG = r"(?:api|access|account|private|secret)[_-]?(?:access[_-]?)?keys?|password|passwd|passphrase|secret"
_WEAK = r"token|pwd|credentials?|signature|sig"  # in prose these words also come before a colon
_ASSIGNED = re.compile(
    rf"(?i)((?<![A-Za-z])(?:[A-Za-z0-9]+[_-])*(?:(?:{_STRONG})\\*[\"']?\s*[=:]|(?:{_WEAK})(?:\\*[\"']\s*:|\s*=))\s*)"
    # quoted, quoted with escaped quotes (JSON inside JSON), or bare; an unclosed quote hides the rest of the line
    r"""(?:(")(?:\\.|[^"\n\\])+|(')(?:\\.|[^'\n\\])+|(\\+["'])(?:(?!(?<!\\)\4)[^\n])+|[^\s"',;&<>()\[\]{}`\\]{6,})"""
)
_SOUNDS_SECRET = re.compile(rf"(?i)(?:^|[_.-])(?:{_STRONG}|(?:auth|access|refresh|session|api|bearer|bot|hub)?token|credentials?)$")
_ENVIRONMENT_MIN = 8  # shorter values ("1", "true", "admin") occur in ordinary text


def redact(text: str, environ: Mapping[str, str] | None = None) -> str:
    """The text with every secret replaced by ``[secret]``. ``environ`` defaults to this process's."""
    for name, value in (os.environ if environ is None else environ).items():
        if len(value) >= _ENVIRONMENT_MIN and sounds_secret(name) and value in text:
            text = text.replace(value, HIDDEN)
    text = _TOKENS.sub(HIDDEN, text)
    text = _URL_USER.sub(HIDDEN, text)
    text = _HEADER.sub(rf"\1{HIDDEN}", text)
    text = _SCHEME.sub(rf"\1{HIDDEN}", text)
    return _ASSIGNED.sub(_hide_value, text)


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
    return _TOKENS.search(value) is not None or _URL_USER.search(value) is not None


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
