"""DELLA's draw: the larger an element of a row is among its row, the more likely it is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from engine.merging._consensus import numbers
from engine.merging._method import Parameter
from engine.merging._sparsify import random_lanes, remembered, sparse

if TYPE_CHECKING:
    from torch import Tensor

    from engine.merging._chunks import Chunks
    from engine.merging._consensus import Vectors

EPSILON = Parameter("epsilon", default=0.15, per_model=True)

_POSITION = (1 << 29) - 1  # the bits of a float64's mantissa that a float32 leaves free
_LANES = 1 << 16


def keep_by_rank(chunks: Chunks, each: Sequence[Mapping[str, float]], key: str, *, rescale: bool) -> Vectors:
    """Keep each element of a task vector with a probability that grows with the rank of its magnitude in its row.

    `each` has `density` and `epsilon`: the smallest element of a row is kept with probability `density - epsilon`, the
    largest with `density + epsilon`, and those between evenly between. With `rescale` a vector keeps its L1 norm.
    """
    densities = numbers(each, "density")
    shares = {
        place: keep_probabilities(chunks.columns, density, epsilon)
        for place, (density, epsilon) in enumerate(zip(densities, numbers(each, "epsilon"), strict=True))
        if 0 < density < 1
    }

    def draw(position: int, delta: Tensor, start: int) -> Tensor:
        return rank_mask(delta, shares[position], f"{key}/{position}", start)

    masks = remembered(chunks, draw, len(shares)) if rescale else draw

    def thin(position: int, delta: Tensor, start: int) -> Tensor:
        if position in shares:
            return delta.mul_(masks(position, delta, start))
        return delta if densities[position] >= 1 else delta.zero_()

    return sparse(chunks, thin, rescale=rescale and bool(shares))


def rank_mask(delta: Tensor, probabilities: Tensor, key: str, start: int) -> Tensor:
    """Draw 1 or 0 for each element of some rows, 1 with the probability of its rank, as float32 on the rows' device.

    The draw is that of `random_mask`, with probabilities rounded to the same 65536ths.
    """
    import torch

    bounds = (probabilities * _LANES).round_().sub_(_LANES // 2).to(delta.device, torch.float32)
    each = torch.empty_like(delta).scatter_(1, order(delta), bounds.expand_as(delta))
    return random_lanes(delta, key, start).to(torch.float32).lt_(each)


def keep_probabilities(columns: int, density: float, epsilon: float) -> Tensor:
    """Give for each rank in a row, the smallest magnitude first, the probability to be kept, as float32.

    The one element of a row of one is kept with probability `density`.
    """
    import torch

    if columns == 1:
        return torch.tensor([density])
    ranks = torch.arange(columns, dtype=torch.float64)
    return ranks.mul_(2 * epsilon / (columns - 1)).add_(density - epsilon).to(torch.float32)


def order(delta: Tensor) -> Tensor:
    """Give the positions of each row's elements by growing magnitude; equal ones stay in the order of memory.

    Magnitude and position are sorted as one 64-bit number, so no two are equal and every way to sort them agrees.
    """
    import torch

    keys = delta.to(torch.float64).abs_()
    keys.view(torch.int64).bitwise_or_(torch.arange(delta.shape[1], device=delta.device))
    if keys.device.type == "cpu":
        keys.numpy().sort(axis=1)  # in vector instructions, ten times as quick as torch
    else:
        keys = keys.sort(dim=1).values
    return keys.view(torch.int64).bitwise_and_(_POSITION)


def refuse(each: Sequence[Mapping[str, float]], shared: Mapping[str, float]) -> str | None:
    """Refuse probabilities that are none, where a density leaves elements to draw; mergekit fails in the merge."""
    del shared
    for density, epsilon in zip(numbers(each, "density"), numbers(each, "epsilon"), strict=True):
        if 0 < density < 1 and not abs(epsilon) < min(density, 1 - density):
            return f"density {density:g} and epsilon {epsilon:g} give probabilities outside of 0 to 1"
    return None
