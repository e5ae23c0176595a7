"""How weighted task vectors become one, and how that one is added to the base (the task-arithmetic family)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.merging._method import Parameter

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from torch import Tensor

_SMALL = 1e-8  # mergekit's: a smaller sum of weights is not divided by


def parameters(*, normalize: bool) -> tuple[Parameter, ...]:
    """List what every method of the family takes; `int8_mask` saves memory in mergekit and does nothing here."""
    return (
        Parameter("weight", per_model=True),
        Parameter("normalize", default=normalize, kind=bool),
        Parameter("lambda", default=1.0),
        Parameter("int8_mask", default=False, kind=bool),
    )


def sparse_parameters(*, normalize: bool, rescale: bool) -> tuple[Parameter, ...]:
    """List what the methods that drop elements take."""
    density = Parameter("density", default=1.0, per_model=True)
    return (*parameters(normalize=normalize), density, Parameter("rescale", default=rescale, kind=bool))


def add_sum(base: Tensor, deltas: Iterable[Tensor], weights: Sequence[float], shared: Mapping[str, float]) -> Tensor:
    """Add the weighted sum of the task vectors, divided by the sum of weights if `normalize`, times `lambda`.

    `deltas` is read one by one, so a generator keeps a single task vector in memory.
    """
    mixed = base * 0
    for delta, weight in zip(deltas, weights, strict=True):
        mixed += delta * weight
    divisor = sum(weights)
    if shared["normalize"] and abs(divisor) >= _SMALL:
        mixed /= divisor
    return base + mixed * shared["lambda"]


def add_elected(
    base: Tensor, deltas: Iterable[Tensor], weights: Sequence[float], shared: Mapping[str, float]
) -> Tensor:
    """Add, for each element, the weighted task vectors whose sign is that of their weighted sum (TIES).

    An element's divisor, if `normalize`, is the sum of the weights that took part; zeros take no part.
    """
    weighted = [delta * weight for delta, weight in zip(deltas, weights, strict=True)]
    total = base * 0
    for part in weighted:
        total += part
    positive = total >= 0
    mixed, divisor = total.zero_(), base * 0
    for part, weight in zip(weighted, weights, strict=True):
        agrees = part.gt(0).where(positive, part.lt(0))
        mixed += part * agrees
        divisor += agrees * weight
    if shared["normalize"]:
        mixed /= divisor.masked_fill_(divisor == 0, 1)
    return base + mixed * shared["lambda"]
