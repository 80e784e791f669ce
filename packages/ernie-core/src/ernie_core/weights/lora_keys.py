"""Names of LoRA tensors: which linear map and which factor a key of diffusers, ComfyUI, peft or kohya means, and how a key is written.

ComfyUI's ERNIE-Image model has the module names of diffusers' (q, k and v apart, ``layers.0.self_attention.to_out.0``), so that only what stands before
and after the path differs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from ernie_core.errors import WeightsError

Format = Literal["diffusers", "comfyui"]
FORMATS: tuple[Format, ...] = get_args(Format)  # that are written

_PREFIX = {"diffusers": "transformer.", "comfyui": "diffusion_model.", "peft": "base_model.model.", "kohya": "lora_unet_"}
_PARTS = {
    "lora_A.weight": "A",
    "lora_B.weight": "B",
    "lora_A.default.weight": "A",  # peft's name of an adapter, left in by some tools
    "lora_B.default.weight": "B",
    "lora_down.weight": "A",
    "lora_up.weight": "B",
    "alpha": "alpha",
}
_TEXT_ENCODER = re.compile(r"(text_encoders?(_\d)?\.|lora_te\d?_|te\d?\.)")
_OTHER_KINDS = {
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "hada_w": "LoHa",
    "lokr_w": "LoKr",
    "lora_mid": "LoCon",
    "lora_B.bias": "a LoRA with biases",
    ".diff": "whole differences",
}
# Parts of our paths, as long as possible: kohya joins them with the same character that some contain.
_PIECE = (
    r"(?:self_attention|adaLN_modulation|time_embedding|final_linear|final_norm|linear_fc2|gate_proj|text_proj|linear_1|linear_2|up_proj|to_out|"
    r"to_q|to_k|to_v|layers|linear|mlp|\d+)"
)
LISTED = 5


@dataclass(frozen=True)
class LoraKey:
    """What a key means. ``name`` is the linear map's, as the state dict has it without ``.weight``; ``part`` is "A", "B" or "alpha"."""

    name: str
    part: str
    format: str


def parse_keys(keys: Iterable[str], *, where: str) -> dict[str, LoraKey]:
    """What every key of a file means. All are of one format.

    Raises:
        WeightsError: keys of a text encoder, of another kind of adapter, of several formats, or of none that is known.
    """
    keys = list(keys)
    if foreign := [key for key in keys if _TEXT_ENCODER.match(key)]:
        raise WeightsError(
            f"{where}: {len(foreign)} keys adapt a text encoder, which is never trained or adapted here: {listed(foreign)}. Load a LoRA without them."
        )
    for mark, kind in _OTHER_KINDS.items():
        if marked := [key for key in keys if mark in key]:
            raise WeightsError(f"{where}: holds {kind} ({listed(marked)}); only plain LoRA, two factors per linear map, is read")
    parsed = {key: _parse(key) for key in keys}
    if unknown := [key for key, value in parsed.items() if value is None]:
        ways = ", ".join(f"{prefix}... ({name})" for name, prefix in _PREFIX.items())
        raise WeightsError(
            f"{where}: {len(unknown)} of {len(keys)} keys are no LoRA keys of this model: {listed(unknown)}. Expected {ways}, and then lora_A and "
            "lora_B, or lora_down, lora_up and alpha."
        )
    found = {key: value for key, value in parsed.items() if value is not None}
    if len(formats := sorted({value.format for value in found.values()})) > 1:
        raise WeightsError(f"{where}: mixes keys of {' and '.join(formats)}; expected one format")
    return found


def key_of(name: str, part: Literal["A", "B"], *, format: Format) -> str:
    """The key of a factor. Neither format has an alpha: diffusers refuses a file with one, and without one both read scale 1."""
    return f"{_PREFIX[format]}{name}.lora_{part}.weight"


def listed(names: Iterable[str]) -> str:
    """The first five, and how many more."""
    names = list(names)
    more = len(names) - LISTED
    return ", ".join(names[:LISTED]) + (f" ... and {more} more" if more > 0 else "")


def _parse(key: str) -> LoraKey | None:
    for format_, prefix in _PREFIX.items():
        if not key.startswith(prefix):
            continue
        for ending, part in _PARTS.items():
            if key.endswith(f".{ending}"):
                path: str | None = key[len(prefix) : -len(ending) - 1]
                if format_ == "kohya":
                    path = _with_dots(path or "")
                return LoraKey(path, part, format_) if path else None
    return None


def _with_dots(flat: str) -> str | None:
    """``layers_0_mlp_up_proj`` to ``layers.0.mlp.up_proj``; None if that is no path of an ERNIE transformer."""
    return ".".join(re.findall(_PIECE, flat)) if re.fullmatch(f"{_PIECE}(_{_PIECE})*", flat) else None
