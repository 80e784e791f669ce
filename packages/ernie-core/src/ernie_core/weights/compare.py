"""Are two sets of weights the same: names, shapes, types and values, tensor by tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ernie_core.errors import WeightsError
from ernie_core.model.load import InMemory
from ernie_core.model.tensor_files import TensorFiles
from ernie_core.weights.io import facts, open_components, sha256_tensor, sha256_tensors

LISTED = 10
Source = TensorFiles | InMemory


@dataclass
class Comparison:
    """One component compared. ``differences`` holds a line for every tensor that is not the same."""

    component: str
    same: int = 0
    differences: list[str] = field(default_factory=list)
    max_abs_difference: float = 0.0
    sha256: tuple[str, str] = ("", "")  # of all tensors, ours and against

    @property
    def equal(self) -> bool:
        return not self.differences

    def lines(self) -> list[str]:
        """For people: a verdict, then at most 10 differences."""
        name = self.component or "weights"
        if self.equal:
            exactly = "" if self.max_abs_difference == 0 else f" within {self.max_abs_difference:.3g}"
            return [f"{name}: the same, {self.same} tensors{exactly}, sha256 {self.sha256[0][:12]}..."]
        head = (
            f"{name}: {len(self.differences)} of {self.same + len(self.differences)} tensors differ, by up to {self.max_abs_difference:.6g}"
        )
        hashes = f"; sha256 {self.sha256[0][:12]}... against {self.sha256[1][:12]}..."
        more = len(self.differences) - LISTED
        return [head + hashes, *(f"  {line}" for line in self.differences[:LISTED]), *([f"  ... and {more} more"] if more > 0 else [])]


def compare_paths(path: str | Path, against: str | Path, *, tolerance: float = 0.0, raw: bool = False) -> list[Comparison]:
    """Compare every component that both sides have. A lone file or folder is compared with the other side's ``transformer``, or with its only component.

    A component that only one of two pipelines has is a difference. Runs and checkpoints hold only what was trained, so there it is none.

    Args:
        tolerance: largest absolute difference that counts as equal; then types may differ too.

    Raises:
        WeightsError: nothing to compare, or a file that cannot be read.
    """
    ours, theirs = open_components(path, raw=raw), open_components(against, raw=raw)
    whole = not any(set(parts) == {""} or any(isinstance(s, InMemory) for s in parts.values()) for parts in (ours, theirs))
    ours, theirs = _paired(ours, theirs), _paired(theirs, ours)
    common = [name for name in ours if name in theirs]
    if not common:
        raise WeightsError(f"nothing to compare: {path} holds {_held(ours)}, {against} holds {_held(theirs)}")
    found = [compare(name, ours[name], theirs[name], tolerance=tolerance) for name in common]
    if whole:
        for name in sorted(set(ours) ^ set(theirs)):
            found.append(Comparison(name, differences=[f"only in {path if name in ours else against}"]))
    return found


def compare(component: str, ours: Source, theirs: Source, *, tolerance: float = 0.0) -> Comparison:
    """Compare all tensors of one component, reading one pair at a time."""
    result = Comparison(component)
    our_facts, their_facts = facts(ours), facts(theirs)
    hashes: tuple[dict[str, str], dict[str, str]] = ({}, {})
    for name in sorted(set(our_facts) | set(their_facts)):
        a = ours.read(name) if name in our_facts else None
        b = theirs.read(name) if name in their_facts else None
        for tensor, known in zip((a, b), hashes):
            if tensor is not None:
                known[name] = sha256_tensor(tensor)
        difference = _difference(a, b, result, tolerance=tolerance)
        if difference is None:
            result.same += 1
        else:
            result.differences.append(f"{name}: {difference}")
    result.sha256 = (sha256_tensors(hashes[0]), sha256_tensors(hashes[1]))
    return result


def _difference(a: Tensor | None, b: Tensor | None, result: Comparison, *, tolerance: float) -> str | None:
    if a is None or b is None:
        return "missing" if a is None else "not in the other"
    if a.shape != b.shape:
        return f"shape {list(a.shape)} against {list(b.shape)}"
    if a.dtype == b.dtype and torch.equal(a, b):
        return None
    a, b, types = a.double(), b.double(), (a.dtype, b.dtype)
    agree = (a == b) | (a.isnan() & b.isnan())
    distance = (
        float(torch.where(agree, torch.zeros_like(a), (a - b).abs()).nan_to_num(nan=float("inf"), posinf=float("inf")).max())
        if a.numel()
        else 0.0
    )
    result.max_abs_difference = max(result.max_abs_difference, distance)
    if types[0] != types[1] and tolerance == 0:
        return f"{types[0]} against {types[1]}, values differ by up to {distance:.6g}".replace("torch.", "")
    return None if distance <= tolerance else f"values differ by up to {distance:.6g} in {int((~agree).sum())} of {a.numel()} places"


def _paired(ours: Mapping[str, Source], theirs: Mapping[str, Source]) -> dict[str, Source]:
    """Give a lone set of weights the name of what it is to be compared with."""
    if set(ours) == {""} and set(theirs) != {""}:
        name = "transformer" if "transformer" in theirs else next(iter(theirs)) if len(theirs) == 1 else ""
        return {name: ours[""]}
    return dict(ours)


def _held(parts: Mapping[str, Source]) -> str:
    return ", ".join(name or "one set of weights" for name in parts)
