"""The evaluation suite `shapebench`: GenEval's kinds of prompts in ShapeBench's world, judged by the exact verifier.

Metrics of a picture: ``right`` (everything asked for is there, and nothing else), and which parts of it hold: ``count`` (number of objects), ``shape``,
``colour``, ``position`` and ``text``, each only where the prompt speaks of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ernie_core.api import ConfigError, DataError, EvalPrompt, EvaluationContext
from ernie_data.shapes.captions import WORDINGS
from ernie_data.shapes.claims import Claims, ObjectClaim
from ernie_data.shapes.entries import ShapeBenchConfig
from ernie_data.shapes.judge import judge_claims, related
from ernie_data.shapes.phrases import claims_caption
from ernie_data.shapes.profile import Profile, profile
from ernie_data.shapes.prompts import SuitePrompt, suite_prompts, tags_of
from ernie_data.shapes.render import MIN_SIZE_PX
from ernie_data.shapes.verify import Seen, SeenObject, look_all

CODE = "shapebench 1"
"""To be raised with every change of prompts, wordings or verifier: results under one code can be compared."""
READ_AT_PX = 128
"""Larger pictures are reduced to it: nothing is gained by reading them larger."""


class ShapeBench:
    """Prompts of every tag, held-out and seen by turns, and their judge."""

    code = CODE

    def __init__(self, config: ShapeBenchConfig) -> None:
        self.config = config
        self.profile = profile(config.profile)
        self._asked = {p.id: p for p in asked(config, self.profile)}

    def prompts(self) -> list[EvalPrompt]:
        return [eval_prompt(p) for p in self._asked.values()]

    def asked(self, prompt_id: str) -> SuitePrompt:
        """The claims and wording behind a prompt.

        Raises:
            DataError: this suite, as configured, has no such prompt.
        """
        if prompt_id not in self._asked:
            raise DataError(
                f"the suite shapebench, as configured, has no prompt {prompt_id}; it was judged with other options than it was asked with"
            )
        return self._asked[prompt_id]

    def judge(self, prompts: Sequence[EvalPrompt], images: Sequence[NDArray[np.uint8]]) -> list[Mapping[str, float]]:
        """A picture that is not square or smaller than 16 px shows nothing. Pictures are read one by one, so that neighbours cannot show."""
        verdicts = []
        for prompt, image in zip(prompts, images, strict=True):
            held = parts(seen_in(image, self.profile), self.asked(prompt.id).claims)
            verdicts.append({name: float(value) for name, value in held.items()})
        return verdicts


def build(config: ShapeBenchConfig, context: EvaluationContext) -> ShapeBench:
    return ShapeBench(config)


def asked(config: ShapeBenchConfig, profile: Profile) -> list[SuitePrompt]:
    """All prompts, the tags taking turns, so that the first few are a fair choice.

    Raises:
        ConfigError: nothing is left to ask.
    """
    splits = {"both": (True, False), "only": (True,), "none": (False,)}[config.held_out]
    groups = [
        suite_prompts(profile, tag, count=config.prompts_per_tag, seed=config.seed, held_out=held_out)
        for held_out in splits
        for tag in tags_of(profile, held_out=held_out)
        if tag in config.tags or not config.tags
    ]
    if not groups:
        known = ", ".join(dict.fromkeys(tag for held_out in splits for tag in tags_of(profile, held_out=held_out)))
        raise ConfigError(f"profile {profile.name} has no prompts of the tags {', '.join(config.tags)}; expected some of: {known}")
    return [_worded(prompt, number, config) for number, row in enumerate(zip(*groups)) for prompt in row]


def eval_prompt(prompt: SuitePrompt) -> EvalPrompt:
    split = "held-out" if prompt.held_out else "seen"
    return EvalPrompt(
        prompt.id,
        prompt.prompt,
        metrics=tuple(parts(Seen((), ()), prompt.claims)),
        tags=(prompt.tag, split, f"{prompt.tag} {split}"),
        cluster=prompt.cluster,
    )


def parts(seen: Seen, claims: Claims) -> dict[str, bool]:
    """Which parts of the claims a picture bears out.

    Shape, colour and position hold if all objects have it right, in the matching of seen and wanted objects with the most agreement; with another
    number of objects than asked for, none of them holds.
    """
    wanted = _wanted(claims)
    verdict = judge_claims(seen.objects, seen.texts, claims)
    held = {"right": verdict.right}
    if wanted:
        count = len(seen.objects) == len(wanted)
        held["count"] = count
        shape, colour, position = _best(seen.objects, wanted, claims) if count else (False, False, False)
        held["shape"] = shape
        if any(o.colour for o in wanted):
            held["colour"] = colour
        if claims.relations or any(o.cell for o in wanted):
            held["position"] = position
    if claims.texts:
        held["text"] = len(seen.texts) == len(claims.texts) and all(holds for claim, holds in verdict.held if claim in claims.texts)
    return held


def _wanted(claims: Claims) -> list[ObjectClaim]:
    """One claim per object: relations' subjects and objects first."""
    return [
        *(side for r in claims.relations for side in (r.subject, r.object)),
        *claims.objects,
        *(ObjectClaim(c.shape, c.colour) for c in claims.counts for _ in range(c.count)),
    ]


def _best(things: Sequence[SeenObject], wanted: Sequence[ObjectClaim], claims: Claims) -> tuple[bool, bool, bool]:
    """Shape, colour and position in the best of all matchings; pictures have at most five objects."""
    best, most = (False, False, False), -1
    for order in itertools.permutations(things):
        shapes = [t.shape == w.shape for t, w in zip(order, wanted)]
        colours = [w.colour is None or t.colour == w.colour for t, w in zip(order, wanted)]
        cells = [w.cell is None or t.cell == w.cell for t, w in zip(order, wanted)]
        cells += [related(order[2 * i].centre, order[2 * i + 1].centre, r.relation) for i, r in enumerate(claims.relations)]
        agree = sum(shapes) + sum(colours) + sum(cells)
        if agree > most:
            best, most = (all(shapes), all(colours), all(cells)), agree
    return best


def seen_in(image_HW3: NDArray[np.uint8], profile: Profile) -> Seen:
    """What the verifier sees in one picture; nothing in one that is not square or smaller than 16 px."""
    height, width = image_HW3.shape[:2]
    if height != width or width < MIN_SIZE_PX:
        return Seen((), ())
    if width > READ_AT_PX:
        image_HW3 = np.asarray(Image.fromarray(image_HW3).resize((READ_AT_PX, READ_AT_PX), Image.Resampling.BOX))
    return look_all(image_HW3[None], profile)[0]


def _worded(prompt: SuitePrompt, number: int, config: ShapeBenchConfig) -> SuitePrompt:
    """The same claims in the styles that were asked for, which take turns."""
    style, wording = config.styles[number % len(config.styles)], (number // len(config.styles)) % WORDINGS
    text = claims_caption(prompt.claims, style=style, wording=wording)
    return SuitePrompt(prompt.id, prompt.tag, text, prompt.claims, style, wording, prompt.held_out)
