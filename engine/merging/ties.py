"""`ties`: trim each task vector to its largest elements, elect a sign, average what agrees."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.merging._consensus import elected, numbers, sparse_parameters
from engine.merging._method import Method
from engine.merging._sparsify import keep_largest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.merging._chunks import Chunks
    from engine.merging._method import Kernel


def merge(chunks: Chunks, each: Sequence[Mapping[str, float]], shared: Mapping[str, float], key: str) -> Kernel:
    """Trim to `density`, elect the sign of the weighted sum, add the mean of the agreeing vectors times `lambda`.

    Equal magnitudes at the trimming threshold are kept in the order of memory, and differences from the base are not
    rounded; mergekit differs in both.
    """
    del key
    trimmed = keep_largest(chunks, numbers(each, "density"), rescale=bool(shared["rescale"]))
    return elected(trimmed, numbers(each, "weight"), shared)


METHOD = Method(
    name="ties",
    summary="Task vectors trimmed by magnitude and merged where their signs agree.",
    paper="https://arxiv.org/abs/2306.01708",
    parameters=sparse_parameters(normalize=True, rescale=False),
    merge=merge,
    needs_base=True,
    min_sources=0,
)
