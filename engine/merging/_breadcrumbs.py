"""Model Breadcrumbs' mask: neither the largest elements of a task vector nor the smallest ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from engine.merging._consensus import numbers, task_vectors
from engine.merging._method import Parameter
from engine.merging._select import keep, largest
from engine.merging._sparsify import sparse

if TYPE_CHECKING:
    from torch import Tensor

    from engine.merging._chunks import Chunk, Chunks
    from engine.merging._consensus import Vectors
    from engine.merging._select import Cut

GAMMA = Parameter("gamma", default=0.01, per_model=True)


def keep_middle(chunks: Chunks, each: Sequence[Mapping[str, float]], *, rescale: bool) -> Vectors:
    """Drop of each task vector the `gamma` largest elements, keep the next `density`, and zero the rest.

    `each` has `density` and `gamma`, shares of all elements; where they exceed 1 together, fewer of the largest are
    dropped. With `rescale` a vector keeps its L1 norm.
    """
    pairs = zip(numbers(each, "density"), numbers(each, "gamma"), strict=True)
    bounds = [_bounds(chunks.numel, density, gamma) for density, gamma in pairs]
    cuts = _cuts(chunks, bounds)

    def thin(position: int, delta: Tensor, start: int) -> Tensor:
        outer, inner = bounds[position]
        if outer == inner:
            return delta.zero_()
        dropped = keep(delta, cuts[position, inner], start) if inner else None
        kept = keep(delta, cuts[position, outer], start) if outer < chunks.numel else delta
        return kept if dropped is None else kept.sub_(dropped)

    return sparse(chunks, thin, rescale=rescale)


def _bounds(total: int, density: float, gamma: float) -> tuple[int, int]:
    """Count the elements down to the smallest kept one, and the largest that are dropped, as mergekit counts them."""
    if density >= 1:
        return total, 0
    wanted = max(0, int(density * total))
    outer = min(total, wanted + int(gamma * total))
    return outer, outer - wanted


def _cuts(chunks: Chunks, bounds: Sequence[tuple[int, int]]) -> dict[tuple[int, int], Cut]:
    """Find where the counts of `bounds` end that are neither none nor all; by source and count."""
    wanted = [(place, count) for place, pair in enumerate(bounds) for count in pair if 0 < count < chunks.numel]

    def magnitudes(chunk: Chunk) -> list[Tensor]:
        vectors = [vector.abs_() for vector in task_vectors(chunk)]
        return [vectors[place] for place, _ in wanted]

    return dict(zip(wanted, largest(chunks, magnitudes, [count for _, count in wanted]), strict=True))


def refuse(each: Sequence[Mapping[str, float]], shared: Mapping[str, float]) -> str | None:
    """Refuse a `gamma` that is no share."""
    del shared
    for gamma in numbers(each, "gamma"):
        if not 0 <= gamma <= 1:
            return f"gamma {gamma:g} is no share of the elements, 0 to 1"
    return None
