"""`ties`: trim each task vector to its largest elements, elect a sign, average what agrees."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.merging._consensus import add_elected, sparse_parameters
from engine.merging._method import Method
from engine.merging._sparsify import keep_largest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor


def merge(
    sources: Sequence[Tensor], each: Sequence[Mapping[str, float]], shared: Mapping[str, float], key: str
) -> Tensor:
    """Trim to `density`, elect the sign of the weighted sum, add the mean of the agreeing vectors times `lambda`.

    Equal magnitudes at the trimming threshold are kept in the order of memory, and differences from the base are not
    rounded; mergekit differs in both.
    """
    del key
    base, *others = sources
    rescale = bool(shared["rescale"])
    deltas = [
        keep_largest(source - base, numbers["density"], rescale=rescale)
        for source, numbers in zip(others, each, strict=True)
    ]
    return add_elected(base, deltas, [numbers["weight"] for numbers in each], shared)


METHOD = Method(
    name="ties",
    summary="Task vectors trimmed by magnitude and merged where their signs agree.",
    paper="https://arxiv.org/abs/2306.01708",
    parameters=sparse_parameters(normalize=True, rescale=False),
    merge=merge,
    needs_base=True,
    min_sources=0,
)
