"""From a checkpoint to pairs: sample several pictures per prompt, score them, choose pairs. Each part is kept once it is whole."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ernie_align.pair_config import PairBuildConfig
from ernie_align.pairs.choose import Rules, choose, combined, thumbnail
from ernie_align.pairs.format import PairFolder
from ernie_align.pairs.pair import NewPair, NewPicture, Reason
from ernie_align.pairs.prompts import Prompt
from ernie_align.pairs.work import ScoredBatch, WorkFolder, differing, sum_of
from ernie_align.pairs.writer import write_pairs
from ernie_core import io
from ernie_core.api import ConfigError, PluginError, RunFolderError, to_plain

if TYPE_CHECKING:
    from ernie_core.api import Scorer

ROUND_SEEDS = 1 << 32
"""Rounds are so many seeds apart: no picture of one starts from the noise of another's."""
LARGEST_SEED = 2**63 - 1
CHOICE = ("min_margin", "quantile", "min_agreement", "min_difference", "pairs_per_prompt", "reuse_pictures", "weights")
"""What may be changed between calls without sampling or scoring again."""

Progress = Callable[[str, int, int], None]
"""``progress(what, done, total)`` after each batch."""


class Painter(Protocol):
    """An opened model."""

    def paint(self, prompts: Sequence[str], *, seed: int) -> NDArray[np.uint8]:
        """One picture per prompt [B, H, W, 3]; picture i from the noise of seed + i."""
        ...


@dataclass(frozen=True)
class Job:
    """What to build.

    Args:
        checkpoint: what ``ernie_core.sampling.identity`` tells of the weights: kind, sha256, step.
        used: what else shapes the pictures, such as device and dtype.
        round: of an on-policy refresh; 0 for the first or only one.
        open_painter: opens the model; only called if there is something to sample, and its result is let go before scoring.
        open_scorer: builds scorer k; only one is held at a time.
    """

    config: PairBuildConfig
    prompts: Sequence[Prompt]
    checkpoint: Mapping[str, Any]
    used: Mapping[str, Any]
    round: int
    open_painter: Callable[[], Painter]
    open_scorer: Callable[[int], Scorer]

    @property
    def first_seed(self) -> int:
        return self.config.seed + self.round * ROUND_SEEDS

    @property
    def total(self) -> int:
        return len(self.prompts) * self.config.images_per_prompt

    def settings(self) -> dict[str, Any]:
        """All that shapes pictures and scores."""
        config = {name: value for name, value in to_plain(self.config).items() if name not in CHOICE}
        prompts = "\0".join(f"{prompt.style or ''}\1{prompt.text}" for prompt in self.prompts)
        checkpoint = {name: self.checkpoint[name] for name in ("kind", "sha256", "step")}
        told = {"count": len(self.prompts), "sha256": sum_of(prompts.encode())}
        return _json_values({"config": config, "prompts": told, "checkpoint": checkpoint, "round": self.round, **self.used})

    def choice(self) -> dict[str, Any]:
        plain = to_plain(self.config)
        return _json_values({name: plain[name] for name in CHOICE})


def build_pairs(job: Job, out: Path, *, progress: Progress, keep_work: bool = False) -> PairFolder:
    """Do what is not done yet and write the folder of pairs. What a finished call with the same settings wrote is returned as it is.

    Raises:
        RunFolderError: ``out`` or its work folder is in use or was made with other settings.
        ConfigError: seeds beyond what generators take.
        DataError: no pair could be chosen; what was sampled and scored is kept.
        PluginError: a scorer did not keep its promise.
        StorageError: the disk refused; the same command goes on.
    """
    if job.first_seed + job.total > LARGEST_SEED:
        raise ConfigError(f"seed = {job.config.seed}, round {job.round}: pictures would need seeds above {LARGEST_SEED}; lower `seed`")
    work = WorkFolder(out.with_name(out.name + ".work"))
    with io.FolderLock(work.path):
        _sweep(out)
        done = _finished(job, out)
        if done is None:
            work.begin(job.settings())
            _sample(job, work, progress)
            scored = [_score(job, work, scorer, progress) for scorer in range(len(job.config.scorers))]
            _write(job, work, out, scored)
            done = PairFolder(out)
        if not keep_work:
            io.remove_folder(work.path)
    return done


def scorer_names(config: PairBuildConfig) -> list[str]:
    """The scorers' names, those that are used several times numbered."""
    names = [scorer.use for scorer in config.scorers]
    return [name if names.count(name) == 1 else f"{name}-{names[: k + 1].count(name)}" for k, name in enumerate(names)]


def _finished(job: Job, out: Path) -> PairFolder | None:
    if not out.exists():
        return None
    found = PairFolder(out)
    about = found.facts.get("about", {})
    if changed := differing({k: about.get(k) for k in ("settings", "choice")}, {"settings": job.settings(), "choice": job.choice()}):
        raise RunFolderError(f"{out}: holds pairs that were made with other settings: {'; '.join(changed)}. Choose another --out.")
    return found


def _sweep(out: Path) -> None:
    """Remove what a call that was killed left behind while it wrote, or while it removed its work; this process holds the lock. What belongs to another
    folder, which somebody may be writing beside this one, stays."""
    ours = re.compile(rf"\.tmp-(removed-)?\d+-{re.escape(out.name)}(\.work)?")
    for path in out.parent.iterdir():
        if ours.fullmatch(path.name) and path.is_dir():
            shutil.rmtree(path, ignore_errors=True)


def _sample(job: Job, work: WorkFolder, progress: Progress) -> None:
    """Batches are the same in every call, so that a picture's rounding does not depend on where an earlier call was stopped."""
    count, size = job.config.images_per_prompt, job.config.batch_size
    painter: Painter | None = None
    for first in range(0, job.total, size):
        numbers = range(first, min(first + size, job.total))
        missing = [number for number in numbers if not work.picture(number).is_file()]
        if missing:
            painter = painter or job.open_painter()
            pictures_BHW3 = painter.paint([job.prompts[number // count].text for number in numbers], seed=job.first_seed + first)
            for number in missing:
                work.write_picture(number, pictures_BHW3[number - first])
        progress("sampling", numbers.stop, job.total)


def _score(job: Job, work: WorkFolder, scorer: int, progress: Progress) -> tuple[list[float], list[str]]:
    """Scores and sha256 of all pictures."""
    name, count, size = scorer_names(job.config)[scorer], job.config.images_per_prompt, job.config.batch_size
    judge = job.open_scorer(scorer)
    batches = work.scores(scorer, code=judge.code)
    done = sum(len(batch.scores) for batch in batches)
    for first in range(done, job.total, size):
        numbers = range(first, min(first + size, job.total))
        read = [work.read_picture(number) for number in numbers]
        found = judge.score([pixels for _, pixels in read], [job.prompts[number // count].text for number in numbers])
        scores = _checked(found, len(numbers), name)
        batches.append(ScoredBatch(first, scores, [sum_of(data) for data, _ in read]))
        work.add_scores(scorer, batches[-1])
        progress(f"scoring by {name}", numbers.stop, job.total)
    return [score for batch in batches for score in batch.scores], [digest for batch in batches for digest in batch.sha256]


def _checked(found: Any, count: int, name: str) -> list[float]:
    scores = np.asarray(found, np.float64)
    if scores.shape != (count,):
        raise PluginError(f'scorer "{name}" gave scores of shape {scores.shape} for {count} pictures')
    if not np.isfinite(scores).all():
        raise PluginError(f'scorer "{name}" gave {scores[~np.isfinite(scores)][0]}; expected finite numbers')
    return [float(score) for score in scores]


def _write(job: Job, work: WorkFolder, out: Path, scored: Sequence[tuple[list[float], list[str]]]) -> None:
    config = job.config
    names, count = scorer_names(config), config.images_per_prompt
    weights_K = config.weights or (1.0,) * len(names)
    scores_PNK = np.array([scores for scores, _ in scored]).T.reshape(len(job.prompts), count, len(names))
    sums = [set(digests) for digests in zip(*(digests for _, digests in scored))]
    thumbnails = []
    for prompt in range(len(job.prompts)):
        numbers = range(prompt * count, (prompt + 1) * count)
        thumbnails.append(np.stack([thumbnail(_verified(work, number, sums[number])[1]) for number in numbers]))
    rules = Rules(
        config.min_margin, config.quantile, config.min_agreement, config.min_difference, config.pairs_per_prompt, config.reuse_pictures
    )
    choice = choose(scores_PNK, thumbnails, weights_K=weights_K, rules=rules)
    score_PN, units_K = combined(scores_PNK, weights_K)

    def picture(prompt: int, number: int) -> NewPicture:
        data, _ = _verified(work, prompt * count + number, sums[prompt * count + number])
        own = {name: float(score) for name, score in zip(names, scores_PNK[prompt, number])}
        return NewPicture(data, f"prompt {prompt} image {number}", float(score_PN[prompt, number]), own)

    with write_pairs(out) as writer:
        for reason, left_out in choice.left_out.items():
            writer.leave_out(reason, _told(reason, job), count=left_out)
        for chosen in choice.pairs:
            prompt = job.prompts[chosen.prompt]
            seeds = [job.first_seed + chosen.prompt * count + number for number in (chosen.winner, chosen.loser)]
            writer.add(
                NewPair(
                    prompt.text,
                    picture(chosen.prompt, chosen.winner),
                    picture(chosen.prompt, chosen.loser),
                    chosen.margin,
                    " + ".join(names),
                    f"{job.checkpoint['kind']} {job.checkpoint['sha256'][:12]} seeds {seeds[0]} and {seeds[1]}",
                    prompt.style,
                    chosen.agreement,
                )
            )
        writer.about.update(
            settings=job.settings(),
            choice=job.choice(),
            checkpoint=dict(job.checkpoint),
            pictures=job.total,
            prompts={"all": len(job.prompts), "with pairs": len({pair.prompt for pair in choice.pairs})},
            scorers={name: {"weight": float(weight), "unit": float(unit)} for name, weight, unit in zip(names, weights_K, units_K)},
        )


def _verified(work: WorkFolder, number: int, sums: set[str]) -> tuple[bytes, NDArray[np.uint8]]:
    data, pixels_HW3 = work.read_picture(number)
    if sums != {sum_of(data)}:
        raise RunFolderError(
            f"{work.picture(number)}: is not the picture that was scored. Remove the files scores-*.jsonl of {work.path} to score all pictures again."
        )
    return data, pixels_HW3


def _told(reason: Reason, job: Job) -> str:
    """Why candidates are left out, beside the reason's own words."""
    config = job.config
    return {
        Reason.TIE: "equal scores",
        Reason.SMALL_MARGIN: f"min_margin = {config.min_margin:g}",
        Reason.DISAGREEMENT: f"min_agreement = {config.min_agreement:g}",
        Reason.NEAR_IDENTICAL: f"min_difference = {config.min_difference:g}",
        Reason.PROMPT_FULL: f"pairs_per_prompt = {config.pairs_per_prompt}, reuse_pictures = {str(config.reuse_pictures).lower()}",
        Reason.SMALL_QUANTILE: f"quantile = {config.quantile:g}",
    }[reason]


def _json_values(value: Any) -> Any:
    """The value as it comes back from JSON, so that settings can be compared with those of a file."""
    if isinstance(value, Mapping):
        return {str(name): _json_values(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_values(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
