"""`multislerp`: weighted interpolation between any number of models on the sphere, through one tangent space."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from engine.merging._consensus import numbers
from engine.merging._method import Method, Parameter
from engine.merging._span import NOISE, inner, inner_products, length, products_with, spanned

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.merging._chunks import Chunks
    from engine.merging._method import Kernel
    from engine.merging._span import Matrix


def merge(chunks: Chunks, each: Sequence[Mapping[str, float]], shared: Mapping[str, float], key: str) -> Kernel:
    """Average the directions in the plane that touches the sphere at their weighted mean, and go back to the sphere.

    The result has the weighted mean of the norms. With a base the vectors are the differences from it. One model alone
    is given as it is. Where the weighted directions cancel out, as zeros do, the vectors are summed with their weights:
    mergekit does so for two vectors whose sum is shorter than `eps`, and fails for more.
    """
    del key
    if len(each) == 1:
        return lambda chunk: chunk.tensors[-1]
    weights = numbers(each, "weight")
    if shared["normalize_weights"]:
        total = sum(weights)
        weights = [weight / total for weight in weights]
    return spanned(chunks, _shares(inner_products(chunks, len(each)), weights, shared["eps"]))


def _shares(products: Matrix, weights: list[float], eps: float) -> list[float]:
    """Give the share of each vector in the result."""
    count = len(weights)
    norms = [math.sqrt(products[place][place]) for place in range(count)]
    scales = [1 / (norm + eps) if norm + eps > 0 else 0.0 for norm in norms]
    units = [[products[i][j] * scales[i] * scales[j] for j in range(count)] for i in range(count)]
    size = length(weights, units)
    if size < eps or size <= math.sqrt(NOISE) * sum(map(abs, weights)):
        return weights
    mean = [weight / size for weight in weights]
    back = inner(weights, products_with(mean, units))
    tangent = [weight - back * share for weight, share in zip(weights, mean, strict=True)]
    angle = length(tangent, units) + eps
    ahead, aside = math.cos(angle), math.sin(angle) / angle if angle else 1.0
    norm = inner(norms, weights)
    directions = [ahead * share + aside * part for share, part in zip(mean, tangent, strict=True)]
    return [norm * share * scale for share, scale in zip(directions, scales, strict=True)]


def refuse(each: Sequence[Mapping[str, float]], shared: Mapping[str, float]) -> str | None:
    """Refuse weights that sum to zero where they are divided by their sum."""
    if shared["normalize_weights"] and len(each) > 1 and sum(numbers(each, "weight")) == 0:
        return "the weights sum to zero, and `normalize_weights` divides by their sum"
    return None


METHOD = Method(
    name="multislerp",
    summary="Spherical interpolation between any number of models, or of their differences from a base.",
    paper="https://goddard.blog/posts/multislerp-wow-what-a-cool-idea",
    parameters=(
        Parameter("weight", per_model=True),
        Parameter("normalize_weights", default=True, kind=bool),
        Parameter("eps", default=1e-8),
    ),
    merge=merge,
    takes_base=True,
    refuse=refuse,
)
