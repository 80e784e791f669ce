"""Which pictures an evaluation asks for, in which order and from which noise. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ernie_core.errors import PluginError
from ernie_core.scoring import EvalPrompt

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}")


@dataclass(frozen=True)
class Ask:
    """One picture. ``id`` names its file; ``number`` counts all pictures, and the noise is that of seed S + number."""

    id: str
    number: int
    prompt: EvalPrompt

    @property
    def cluster(self) -> str:
        """Pictures of one prompt always share one."""
        return self.prompt.cluster or self.prompt.id


def plan_asks(prompts: Sequence[EvalPrompt], *, suite: str, samples: int = 1, limit: int | None = None) -> list[Ask]:
    """One picture of every prompt, then the second of every prompt, and so on; ids get ``-0``, ``-1``, ... where there are several.

    Args:
        limit: only the first prompts.

    Raises:
        PluginError: prompts that are no good: none, ids that repeat or cannot name a file, no metrics. Names the suite and the prompt.
    """
    for number, prompt in enumerate(prompts):
        if not _ID.fullmatch(prompt.id):
            raise PluginError(
                f'suite "{suite}": prompt {number} has the id {prompt.id!r:.140}; expected up to 120 letters, digits, `.`, `_` and `-`, not first'
            )
        if not prompt.metrics or len(set(prompt.metrics)) < len(prompt.metrics):
            raise PluginError(
                f'suite "{suite}": prompt {prompt.id} has the metrics {prompt.metrics!r}; expected one or more different names'
            )
    kept = prompts[:limit]
    if not kept:
        raise PluginError(f'suite "{suite}" has no prompts')
    named = [(p.id if samples == 1 else f"{p.id}-{k}", p) for k in range(samples) for p in kept]
    asks = [Ask(name, number, prompt) for number, (name, prompt) in enumerate(named)]
    seen: set[str] = set()
    for ask in asks:
        folded = ask.id.lower()  # some file systems do not tell case apart
        if folded in seen:
            raise PluginError(f'suite "{suite}": the id {ask.id} stands for two pictures; ids must differ by more than case')
        seen.add(folded)
    return asks
