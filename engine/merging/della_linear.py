"""`della_linear`: drop elements of each task vector at random, small ones more often, add the weighted sum."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.merging._consensus import numbers, sparse_parameters, summed
from engine.merging._della import EPSILON, keep_by_rank, refuse
from engine.merging._method import Method

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.merging._chunks import Chunks
    from engine.merging._method import Kernel


def merge(chunks: Chunks, each: Sequence[Mapping[str, float]], shared: Mapping[str, float], key: str) -> Kernel:
    """Keep each element with probability `density` ± `epsilon` by its rank, then sum as `task_arithmetic`.

    Ranks are those of magnitudes along the last dimension, equal ones in the order of memory; the draw depends on the
    seed, the tensor's name, the source's position and the place of the element alone. mergekit leaves ties to its sort,
    ranks along the second dimension where there are three, and draws from one stream.
    """
    thinned = keep_by_rank(chunks, each, key, rescale=bool(shared["rescale"]))
    return summed(thinned, numbers(each, "weight"), shared)


METHOD = Method(
    name="della_linear",
    summary="Task vectors thinned at random by rank of magnitude, rescaled and summed.",
    paper="https://arxiv.org/abs/2406.11617",
    parameters=(*sparse_parameters(normalize=False, rescale=True), EPSILON),
    merge=merge,
    needs_base=True,
    min_sources=0,
    refuse=refuse,
)
