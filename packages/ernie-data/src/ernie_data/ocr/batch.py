"""Batches of pictures for a vision-language model: a picture that cannot be loaded is refused by itself and costs the others nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ernie_data.engine.stage import Item, Kept, Refuse

Outcome = Kept | Refuse


def answered(items: Sequence[Item], work: Callable[[list[Item], list[bytes]], Sequence[Outcome]]) -> list[Outcome]:
    """One outcome per item, in order: those of ``work`` for the items that could be loaded."""
    outcomes: dict[int, Outcome] = {}
    loaded: list[tuple[int, Item, bytes]] = []
    for number, item in enumerate(items):
        try:
            loaded.append((number, item, item.load()))
        except Refuse as refusal:
            outcomes[number] = refusal
    if loaded:
        given = work([item for _, item, _ in loaded], [data for _, _, data in loaded])
        outcomes.update({number: outcome for (number, _, _), outcome in zip(loaded, given, strict=True)})
    return [outcomes[number] for number in range(len(items))]
