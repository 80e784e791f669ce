"""Who learns when: pure functions of the step. Light.

DMD2 counts iterations: each updates the fake score, every fifth the student as well. Here an update is a step, so its 5:1 is a period of six turns,
F F F F F S. (Alternating one student step with four of the fake score, as some do, is 4:1.)
"""

from __future__ import annotations

from dataclasses import dataclass

from ernie_core.api import Turn

FAKE, STUDENT = "fake", "student"


@dataclass(frozen=True)
class Turns:
    """``fake_steps`` turns of the fake score before each of the student, after ``warmup_steps`` turns of the fake score alone."""

    fake_steps: int
    warmup_steps: int

    @property
    def period(self) -> int:
        return self.fake_steps + 1

    def at(self, step: int) -> Turn:
        role = STUDENT if step >= self.warmup_steps and (step - self.warmup_steps) % self.period == self.fake_steps else FAKE
        return Turn(role, (role,))

    def student_updates(self, step: int) -> int:
        """Turns of the student before this step."""
        return max(0, step - self.warmup_steps) // self.period

    def period_of(self, step: int) -> int:
        """Number of the period that a step belongs to, without gaps and never above the step; the student is the same throughout. The warm-up is cut into
        periods from step 0 on, of which the last may be short."""
        if step < self.warmup_steps:
            return step // self.period
        return -(-self.warmup_steps // self.period) + (step - self.warmup_steps) // self.period
