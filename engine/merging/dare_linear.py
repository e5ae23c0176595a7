"""`dare_linear`: thin each task vector at random, rescale it, add the weighted sum."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.merging._consensus import add_sum, sparse_parameters
from engine.merging._method import Method
from engine.merging._sparsify import keep_random

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor


def merge(
    sources: Sequence[Tensor], each: Sequence[Mapping[str, float]], shared: Mapping[str, float], key: str
) -> Tensor:
    """Keep each element with probability `density`, rescale to the L1 norm before, then sum as `task_arithmetic`.

    The draw depends on the seed, the tensor's name and the source's position alone, and not on chunks, workers or
    other tensors. mergekit draws from one stream, so its result depends on the order of everything before.
    """
    base, *others = sources
    rescale = bool(shared["rescale"])
    deltas = (
        keep_random(source - base, numbers["density"], f"{key}/{position}", rescale=rescale)
        for position, (source, numbers) in enumerate(zip(others, each, strict=True))
    )
    return add_sum(base, deltas, [numbers["weight"] for numbers in each], shared)


METHOD = Method(
    name="dare_linear",
    summary="Task vectors thinned at random, rescaled and summed.",
    paper="https://arxiv.org/abs/2311.03099",
    parameters=sparse_parameters(normalize=False, rescale=True),
    merge=merge,
    needs_base=True,
    min_sources=0,
)
