"""`passthrough`: one model's tensors as they are, for stacking layers of several models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.merging._method import Method, Parameter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor


def merge(
    sources: Sequence[Tensor], each: Sequence[Mapping[str, float]], shared: Mapping[str, float], key: str
) -> Tensor:
    """Give `scale * source`."""
    del shared, key
    return sources[0] * each[0]["scale"]


METHOD = Method(
    name="passthrough",
    summary="One model's tensors unchanged; with `slices`, layers of several models stacked.",
    paper="https://arxiv.org/abs/2312.15166",
    parameters=(Parameter("scale", default=1.0, per_model=True),),
    merge=merge,
    max_sources=1,
)
