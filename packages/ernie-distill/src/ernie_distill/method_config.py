"""Options of the method ``mt-dmd``, and its entry. Light: no torch."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from msgspec import Meta

from ernie_core.adapters.config import AdapterConfig
from ernie_core.api import Config, Count, Entry, Fraction, From, NonNegative, Positive, PositiveInt, Selection
from ernie_distill.telemetry import AlarmConfig

GENERALIST = "generalist"


def check_range(low: float, high: float) -> None:
    """
    Raises:
        ValueError: it is empty.
    """
    if not low < high:
        raise ValueError(f"noise levels from {low:g} to {high:g}: expected the first to be below the second")


class TeacherConfig(Config):
    """One teacher. Without a path it is the model that training starts from."""

    name: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
    path: str | None = None
    """A run or checkpoint that trained an adapter on ``model.init`` (it is added to the shared base), or any model of the same architecture (held as a network
    of its own)."""
    blend: dict[str, Positive] = {}
    """Instead of a path: the base with several experts' adapters at these strengths, by teacher, such as { text = 0.5, photo = 0.5 } for the mean of their
    parameters."""
    domains: tuple[str, ...] = ()
    """What it is an expert of, as the data source names domains."""

    def __post_init__(self) -> None:
        if self.path is not None and self.blend:
            raise ValueError(f"teacher `{self.name}`: `path` and `blend` exclude each other")


class RenoiseConfig(Config):
    """Noise levels at which distribution matching compares teachers and fake score: ``low + (high - low) u``, u uniform or Beta distributed."""

    low: Fraction = 0.02
    high: Fraction = 0.98
    beta_start: tuple[Positive, Positive] | None = None
    """DMDR's schedule: u ~ Beta(a, b) that starts here, e.g. [4, 1.5] (high noise first), and becomes uniform on a cosine. None: uniform throughout."""
    beta_decay_steps: PositiveInt = 10000
    """Student updates until it is uniform."""

    def __post_init__(self) -> None:
        check_range(self.low, self.high)


class GuidanceConfig(Config):
    """The augmentation by guidance, which carries what classifier-free guidance does to a teacher's pictures into a student that has none."""

    scale: Annotated[float, Meta(gt=1)] = 4.0
    """a of ``uncond + a (cond - uncond)``: the guidance scale that teachers are sampled with."""
    weight: NonNegative = 1.0
    """0: distribution matching alone, a student of the unguided teachers."""
    low: Fraction = 0.0
    high: Fraction = 1.0
    """Noise levels are uniform on this range ..."""
    below_step: bool = True
    """... cut at the student's own: the augmentation works on what the step has not resolved yet."""

    def __post_init__(self) -> None:
        check_range(self.low, self.high)
        if not math.isfinite(self.scale):
            raise ValueError(f"scale = {self.scale}: expected a finite number")


class RealScoreConfig(Config):
    """DMDR's dynamic real score: in distribution matching the teachers lean towards the student's distribution at first, by a share of the fake score's
    adapter, ``alpha(n) = start / 2 (1 + cos(pi min(n, T) / T))``."""

    start: Fraction = 0.375
    """DMDR's own: .75 of a factor that its fake score has at 2."""
    decay_steps: PositiveInt = 10000
    """T, in student updates."""


class RewardConfig(Config):
    """A reward on the student's pictures beside matching, which then keeps it near the teachers."""

    scorer: Annotated[Selection, From("scorers")]
    """One that gives gradients: ``ernie_distill.reward.DifferentiableScorer``."""
    weight: Positive = 0.1
    """Of the reward's gradient by the student's clean sample; matching's is about 1 per element after normalising, over their number."""


class MtDmdConfig(Config):
    """Distillation to few steps, without guidance, by distribution matching with one teacher (DMD2, decoupled DMD) or several (MT-DMD)."""

    teachers: tuple[TeacherConfig, ...] = (TeacherConfig(GENERALIST),)
    """The generalist, which has no path, comes first."""
    steps: PositiveInt = 8
    """Of the student. Its noise levels are those that ``ernie sample`` and diffusers visit with so many steps at the run's ``flow.shift``."""
    rollout: Literal["euler", "renoise"] = "euler"
    """How the student comes to the noise level it is trained at. It must be the sampler that users sample with: a student trained with one is over- or
    under-dispersed in the other."""
    reuse_trajectory: bool = False
    """All turns of a period take the same prompts and the same rollout, which saves about a third of the work."""
    fake_steps: PositiveInt = 5
    """Updates of the fake score before each one of the student: 5 is a period of six turns."""
    fake_warmup_steps: Count = 100
    """Steps at the start in which the fake score alone learns."""
    fake_optimizer: str = "default"
    """Table [optimizers.NAME] of the fake score, which usually learns at twice to four times the student's rate; "default": [optimizer], as the student."""
    fake_space: Literal["velocity", "x0"] = "velocity"
    fake_sigma: tuple[Fraction, Fraction] = (0.001, 0.999)
    """Noise levels that the fake score learns at, uniform."""
    match: RenoiseConfig = RenoiseConfig()
    guidance: GuidanceConfig = GuidanceConfig()
    coupled: bool = False
    """Both terms at the noise level and the noise of ``match``: DMD2. By default the guidance term draws its own."""
    normaliser: Literal["shared-cfg", "per-term", "none"] = "per-term"
    """``shared-cfg`` with ``coupled`` is DMD2's gradient to the bit of rounding."""
    gate: Annotated[Selection, From("gates")] = Selection("product")
    guidance_budget: Positive | None = 1.0
    """Largest sum of a sample's guidance weights; more is an error. None: any."""
    active_teachers: PositiveInt = 2
    """So many of the heaviest teachers are asked for a sample; the others' weight goes to them in proportion."""
    active_above: Fraction = 1e-3
    """A teacher of less weight than this is not asked."""
    real_score: RealScoreConfig | None = None
    reward: RewardConfig | None = None
    adapter: AdapterConfig | None = AdapterConfig()
    """Of student and fake score, over the teachers' shared base; ``false`` trains all weights of both."""
    teacher_steps: PositiveInt = 50
    """Of the guided teacher whose pictures validation compares the student's with."""
    styles: dict[str, NonNegative] = {}
    """Weights by which a caption's style is drawn among those that a record has. Empty: evenly."""
    check_base_steps: PositiveInt = 1000
    """The shared base is hashed every so many steps: it must never move."""
    alarms: AlarmConfig | None = AlarmConfig()
    """When the run stops itself; ``false``: never."""

    def __post_init__(self) -> None:
        if not self.teachers:
            raise ValueError(f'teachers: found none, expected at least the generalist, {{ name = "{GENERALIST}" }}')
        first = self.teachers[0]
        if first.path is not None or first.blend:
            raise ValueError(
                f"teachers: the first, `{first.name}`, is the generalist, the model that training starts from: it has neither path nor blend"
            )
        names = [teacher.name for teacher in self.teachers]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"teachers: several are called `{repeated[0]}`")
        if missing := [teacher.name for teacher in self.teachers[1:] if teacher.path is None and not teacher.blend]:
            raise ValueError(f"teachers: `{missing[0]}` has no path; only the first teacher is the model that training starts from")
        paths = {teacher.name for teacher in self.teachers if teacher.path is not None}
        for teacher in self.teachers:
            if unknown := sorted(teacher.blend.keys() - paths):
                raise ValueError(
                    f"teachers: `{teacher.name}` blends `{unknown[0]}`; expected teachers with a path: {', '.join(sorted(paths)) or 'there is none'}"
                )
        check_range(*self.fake_sigma)
        if self.normaliser == "shared-cfg" and not self.guidance.weight:
            raise ValueError('normaliser = "shared-cfg" divides by the distance to the guided prediction: it needs guidance.weight above 0')
        if self.coupled and not self.guidance.weight:
            raise ValueError("coupled = true couples two terms: it needs guidance.weight above 0")
        if self.coupled and (self.guidance.low, self.guidance.high) != (0.0, 1.0):
            raise ValueError(
                "coupled = true has guidance at the noise levels of `match`: remove guidance.low and guidance.high, or set match.low and high"
            )
        if self.real_score is not None and self.adapter is None:
            raise ValueError("real_score adds a share of the fake score's adapter to the teachers: it needs an adapter")
        if self.styles and not sum(self.styles.values()) > 0:
            raise ValueError("styles: no weight is above 0")


def teacher_weights(options: Config) -> dict[str, str]:
    """Weights that the method computes with beside ``model.init``, by the key that names them: they read the same latents and the same text."""
    if not isinstance(options, MtDmdConfig):
        return {}
    return {f"method.teachers ({teacher.name})": teacher.path for teacher in options.teachers if teacher.path is not None}


METHODS = (
    Entry("mt-dmd", "distillation to few steps without guidance, from one or several teachers", MtDmdConfig, "ernie_distill.method:build"),
)
