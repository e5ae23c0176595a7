"""`dare_ties`: thin each task vector at random, rescale it, average what agrees in sign."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.merging._consensus import elected, numbers, sparse_parameters
from engine.merging._method import Method
from engine.merging._sparsify import keep_random

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.merging._chunks import Chunks
    from engine.merging._method import Kernel


def merge(chunks: Chunks, each: Sequence[Mapping[str, float]], shared: Mapping[str, float], key: str) -> Kernel:
    """Keep each element with probability `density`, rescale to the L1 norm before, then elect signs as `ties` does.

    The draw depends on the seed, the tensor's name, the source's position and the place of the element alone. mergekit
    draws from one stream, so its result depends on the order of everything before.
    """
    thinned = keep_random(chunks, numbers(each, "density"), key, rescale=bool(shared["rescale"]))
    return elected(thinned, numbers(each, "weight"), shared)


METHOD = Method(
    name="dare_ties",
    summary="Task vectors thinned at random, rescaled and merged where their signs agree.",
    paper="https://arxiv.org/abs/2311.03099",
    parameters=sparse_parameters(normalize=False, rescale=True),
    merge=merge,
    needs_base=True,
    min_sources=0,
)
