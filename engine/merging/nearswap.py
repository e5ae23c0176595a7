"""`nearswap`: each element of the base goes towards the other model's, by `t` at the most."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.merging._consensus import task_vectors
from engine.merging._method import Method, Parameter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from engine.merging._chunks import Chunk, Chunks
    from engine.merging._method import Kernel

_SMALL = 1e-6  # mergekit's: `t` is divided by no smaller difference


def merge(chunks: Chunks, each: Sequence[Mapping[str, float]], shared: Mapping[str, float], key: str) -> Kernel:
    """Interpolate each element with the weight `t / |difference|`, at most 1, which is a step of `t` at the most.

    A difference below 1e-6 counts as 1e-6 in the weight. A negative `t` leaves the base.
    """
    del chunks, each, key
    step = max(shared["t"], 0.0)
    share = min(step / _SMALL, 1.0)

    def kernel(chunk: Chunk) -> Tensor:
        (delta,) = task_vectors(chunk)
        return delta.mul_(share).clamp_(-step, step).add_(chunk.tensors[0])

    return kernel


METHOD = Method(
    name="nearswap",
    summary="The base with each element moved towards another model's by at most `t`.",
    paper="https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001",
    parameters=(Parameter("t"),),
    merge=merge,
    needs_base=True,
    max_sources=1,
)
