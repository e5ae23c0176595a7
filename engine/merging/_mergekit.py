"""The methods that have no kernel here: mergekit's own registry runs them, behind the same executor.

They see whole tensors, so their memory follows the largest tensor times the number of sources, and they run on the CPU.
Listing them needs no mergekit; it is imported when the first tensor is merged.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from engine.errors import PlanError
from engine.merging._method import Method, Parameter

if TYPE_CHECKING:
    from torch import Tensor

    from engine.merging._chunks import Chunk, Chunks
    from engine.merging._method import Kernel, Merge


def _merge(name: str) -> Merge:
    """Give the function of a method that starts from a base and has no parameters of each model."""

    def merge(chunks: Chunks, each: Sequence[Mapping[str, float]], shared: Mapping[str, float], key: str) -> Kernel:
        del each, key  # none of these methods draws at random
        merge_tensors = _merge_tensors()
        merged = merge_tensors(_whole(chunks), name, base_index=0, parameters=shared).reshape(-1)

        def kernel(chunk: Chunk) -> Tensor:
            base = chunk.tensors[0]
            part: Tensor = merged[chunk.start : chunk.start + base.numel()]
            return part.reshape(base.shape).to(base.device)

        return kernel

    return merge


def _whole(chunks: Chunks) -> list[Tensor]:
    """Read every source's tensor as a whole, in float32 and its own shape."""
    import torch

    tensors = [torch.empty(chunks.shape) for _ in range(chunks.count)]

    def fill(chunk: Chunk) -> None:
        for whole, part in zip(tensors, chunk.tensors, strict=True):
            whole.view(-1)[chunk.start : chunk.start + part.numel()].copy_(part.view(-1))

    chunks.map(fill)
    return tensors


def _merge_tensors() -> Callable[..., Any]:
    try:
        from mergekit.merge_methods import merge_tensors
    except ImportError as error:
        raise _missing() from error
    found: Callable[..., Any] = merge_tensors
    return found


def _refuse(each: Sequence[Mapping[str, float]], shared: Mapping[str, float]) -> str | None:
    """Find nothing wrong with any numbers.

    Raises:
        PlanError: mergekit is not installed.
    """
    del each, shared
    if importlib.util.find_spec("mergekit") is None:
        raise _missing()
    return None


def _missing() -> PlanError:
    methods = " and ".join(METHODS)
    return PlanError(
        f"mergekit is not installed (or cannot be imported), and the merge methods {methods} run in it.",
        hint="Install it: pip install chogo[mergekit]",
    )


def _method(name: str, summary: str, paper: str, *parameters: Parameter) -> Method:
    return Method(name, summary, paper, parameters, _merge(name), needs_base=True, min_sources=0, refuse=_refuse)


_EPSILON = Parameter("epsilon", default=1e-5)
_RAM = "https://arxiv.org/abs/2601.13572"

METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (
        _method(
            "ram",
            "Task vectors averaged where several models changed an element; what only one changed is kept.",
            _RAM,
            _EPSILON,
        ),
        _method(
            "ramplus_tl",
            "`ram`, with what only one model changed scaled up by how much the models overlap in the tensor.",
            _RAM,
            Parameter("r", default=0.1),
            Parameter("alpha", default=0.2),
            _EPSILON,
        ),
    )
}
"""What mergekit 0.1.5 registers and no file here has, by its name."""
