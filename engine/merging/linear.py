"""`linear`: the weighted mean of models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.merging._method import Method, Parameter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor


def merge(
    sources: Sequence[Tensor], each: Sequence[Mapping[str, float]], shared: Mapping[str, float], key: str
) -> Tensor:
    """Sum `weight * source`, divided by the sum of weights if `normalize`; a base counts as one more source."""
    del key
    result = sources[0] * each[0]["weight"]
    for source, numbers in zip(sources[1:], each[1:], strict=True):
        result += source * numbers["weight"]
    if shared["normalize"]:
        result /= sum(numbers["weight"] for numbers in each)
    return result


def refuse(each: Sequence[Mapping[str, float]], shared: Mapping[str, float]) -> str | None:
    """Refuse weights that sum to zero where they are divided by their sum (mergekit writes non-finite numbers)."""
    if shared["normalize"] and sum(numbers["weight"] for numbers in each) == 0:
        return "the weights sum to zero, and `normalize` divides by their sum"
    return None


METHOD = Method(
    name="linear",
    summary="The weighted mean of models (model soup).",
    paper="https://arxiv.org/abs/2203.05482",
    parameters=(Parameter("weight", per_model=True), Parameter("normalize", default=True, kind=bool)),
    merge=merge,
    refuse=refuse,
)
