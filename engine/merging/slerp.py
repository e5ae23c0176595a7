"""`slerp`: go along the arc from the base to the other model."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from engine.merging._method import Method, Parameter
from engine.merging._reduce import dot

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

# mergekit's numbers: beyond this cosine the arc is taken for a straight line, below this norm a tensor for zero.
_COLLINEAR = 0.9995
_EPSILON = 1e-8


def merge(
    sources: Sequence[Tensor], each: Sequence[Mapping[str, float]], shared: Mapping[str, float], key: str
) -> Tensor:
    """Interpolate spherically between the base (`t` = 0) and the one source (`t` = 1), taking each tensor as a vector.

    The angle is that of the normalised tensors; the interpolation is of the tensors as they are. Where they are
    (anti)parallel it is linear.
    """
    del each, key
    base, other = sources
    t = shared["t"]
    here, there = _shares(_cosine(base, other), t)
    return base * here + other * there


def _cosine(first: Tensor, second: Tensor) -> float:
    norms = [math.sqrt(dot(tensor, tensor)) for tensor in (first, second)]
    scale = math.prod(norm if norm > _EPSILON else 1.0 for norm in norms)
    return max(-1.0, min(1.0, dot(first, second) / scale))


def _shares(cosine: float, t: float) -> tuple[float, float]:
    if abs(cosine) > _COLLINEAR:
        return 1 - t, t
    angle = math.acos(cosine)
    return math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)


METHOD = Method(
    name="slerp",
    summary="Spherical interpolation from the base to one other model.",
    paper="https://doi.org/10.1145/325334.325242",
    parameters=(Parameter("t"),),
    merge=merge,
    needs_base=True,
    max_sources=1,
)
