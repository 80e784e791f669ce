"""The prompts of the suite: GenEval's tags and text, each prompt with the claims that its pictures must bear out.

Prompts come from the same scenes and wordings as training captions. Held-out prompts ask for what no training picture or caption combines: a triple of
shape, colour and cell for the tag ``single``, otherwise the combinations of ``claims.is_held_out``. Every pair of shape and colour is trained, so the
tag ``colours`` has no held-out prompts.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

import numpy as np

from ernie_core.api import ConfigError
from ernie_core.rng import Rng
from ernie_data.shapes.captions import STYLES, WORDINGS
from ernie_data.shapes.claims import Claims, claims_of_triples, is_held_out
from ernie_data.shapes.phrases import claims_caption
from ernie_data.shapes.profile import Profile, Triple
from ernie_data.shapes.scene import draw_kind

TAGS = ("single", "two", "counting", "colours", "position", "binding", "text")
_NOT_TOLD_APART = 20
"""After so many draws of claims that the suite already has, one is repeated: there may be no more."""


@dataclass(frozen=True)
class SuitePrompt:
    """``cluster`` is equal for prompts that make the same claims in other words."""

    id: str
    tag: str
    prompt: str
    claims: Claims
    style: str
    wording: int
    held_out: bool

    @property
    def cluster(self) -> str:
        return f"{self.tag}: {self.claims}"


def tags_of(profile: Profile, *, held_out: bool = False) -> tuple[str, ...]:
    """The tags that a profile has prompts for. Profiles without kinds of scenes have single objects only."""
    if not profile.kinds:
        return ("single",)
    return tuple(t for t in TAGS if (t in profile.kinds or (t == "text" and profile.max_glyphs)) and not (held_out and t == "colours"))


def suite_prompts(profile: Profile, tag: str, *, count: int, seed: int, held_out: bool) -> tuple[SuitePrompt, ...]:
    """``count`` prompts of one tag; a pure function of the arguments, and the first n are the same for every count.

    Claims differ as long as new ones are found. Styles and wordings take turns.

    Raises:
        ConfigError: the profile has no prompts of the tag.
    """
    if tag not in tags_of(profile, held_out=held_out):
        kind = "held-out prompts" if held_out else "prompts"
        raise ConfigError(
            f'profile {profile.name} has no {kind} of the tag "{tag}"; expected one of: {", ".join(tags_of(profile, held_out=held_out))}'
        )
    split = "held-out" if held_out else "seen"
    generator = Rng(seed).at(f"shapes/prompts/{profile.name}/{tag}/{split}", 0).generator(0)
    pool = profile.held_out() if held_out else profile.seen()
    order = generator.permutation(len(pool))
    had: set[Claims] = set()
    prompts = []
    for index in range(count):
        if tag == "single":
            claims = claims_of_triples([pool[order[index % len(pool)]]])
        else:
            claims = _new_claims(profile, tag, held_out, generator, had)
            had.add(claims)
        style, wording = STYLES[index % len(STYLES)], (index // len(STYLES)) % WORDINGS
        text = claims_caption(claims, style=style, wording=wording)
        prompts.append(SuitePrompt(f"{profile.name}-{tag}-{split}-{index:04d}", tag, text, claims, style, wording, held_out))
    return tuple(prompts)


def _new_claims(profile: Profile, tag: str, held_out: bool, generator: np.random.Generator, had: Set[Claims]) -> Claims:
    for _ in range(_NOT_TOLD_APART):
        claims = _claims(profile, tag, held_out, generator)
        if claims not in had:
            break
    return claims


def _claims(profile: Profile, tag: str, held_out: bool, generator: np.random.Generator) -> Claims:
    kind, signed = ("single", True) if tag == "text" else (tag, False)
    seen = set(profile.seen())
    while True:  # one draw in eight is held out
        claims = draw_kind(profile, kind, signed=signed, everything=held_out, generator=generator).claims()
        # A held-out text stands with an object that was trained, so that the prompt asks for one new thing.
        trained = all(Triple(*o) in seen for o in claims.objects if o.cell)
        if not held_out or (trained and is_held_out(claims)):
            return claims
