"""`breadcrumbs`: drop the largest and the smallest elements of each task vector, add the weighted sum."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.merging._breadcrumbs import GAMMA, keep_middle, refuse
from engine.merging._consensus import numbers, sparse_parameters, summed
from engine.merging._method import Method

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.merging._chunks import Chunks
    from engine.merging._method import Kernel


def merge(chunks: Chunks, each: Sequence[Mapping[str, float]], shared: Mapping[str, float], key: str) -> Kernel:
    """Drop the `gamma` largest elements, keep the next `density`, then sum as `task_arithmetic`.

    Equal magnitudes at either end count in the order of memory, the first as the larger; mergekit's sort is unstable.
    """
    del key
    middle = keep_middle(chunks, each, rescale=bool(shared["rescale"]))
    return summed(middle, numbers(each, "weight"), shared)


METHOD = Method(
    name="breadcrumbs",
    summary="Task vectors without their largest and smallest elements, summed.",
    paper="https://arxiv.org/abs/2312.06795",
    parameters=(*sparse_parameters(normalize=False, rescale=False), GAMMA),
    merge=merge,
    needs_base=True,
    min_sources=0,
    refuse=refuse,
)
