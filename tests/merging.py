"""Merge methods over tensors in memory, and for each method numbers that suit it: what tests of every method share."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from engine import merging
from engine.merging import Chunk, Chunks, Method, Rows, Workers

Numbers = Mapping[str, float]


@dataclass(frozen=True)
class Example:
    """Numbers that a method works with.

    `each`: one mapping for every source but the base; `shared`: the merge's own. What is not given has its default.
    `base`: a base is given although the method needs none. `any_order`: the order of the sources changes nothing.
    `keeps_equal`: equal sources give that source.
    `ends`: other numbers that give one source alone: (each, shared, its position, the base at 0 where there is one).
    """

    each: tuple[Numbers, ...]
    shared: Numbers = field(default_factory=dict)
    base: bool = False
    any_order: bool = True
    keeps_equal: bool = True
    ends: tuple[tuple[tuple[Numbers, ...], Numbers, int], ...] = ()


def _weights(*weights: float) -> tuple[Numbers, ...]:
    return tuple({"weight": weight} for weight in weights)


def _thinned(*pairs: tuple[float, float], **others: float) -> tuple[Numbers, ...]:
    return tuple({"weight": weight, "density": density, **others} for weight, density in pairs)


_NONE: Numbers = {}
_ONE_ALONE = ((_weights(1.0), {}, 1),)
_ONE_OF_TWO = ((_weights(1.0, 0.0), {}, 1), (_weights(0.0, 1.0), {}, 2))
_FIRST_OR_SECOND = ((_weights(1.0, 0.0), {}, 0), (_weights(0.0, 1.0), {}, 1))

EXAMPLES: Mapping[str, tuple[Example, ...]] = {
    "arcee_fusion": (Example((_NONE,)),),
    "breadcrumbs": (
        Example(_thinned((0.7, 0.3), (-0.4, 0.6), gamma=0.1), ends=(*_ONE_ALONE, *_ONE_OF_TWO)),
        Example(_thinned((0.7, 0.9), (0.4, 0.5)), {"rescale": True, "normalize": True, "lambda": 1.3}),
    ),
    "breadcrumbs_ties": (
        Example(_thinned((0.7, 0.3), (-0.4, 0.6), (0.5, 0.8), gamma=0.1), ends=_ONE_ALONE),
        Example(_thinned((0.7, 0.9), (0.4, 0.5)), {"rescale": True, "normalize": True, "lambda": 1.3}),
    ),
    "dare_linear": (
        Example(_thinned((0.7, 0.3), (-0.4, 0.6)), any_order=False, ends=(*_ONE_ALONE, *_ONE_OF_TWO)),
        Example(_thinned((0.7, 0.3), (0.5, 0.6)), {"rescale": False, "normalize": True}, any_order=False),
    ),
    "dare_ties": (
        Example(_thinned((0.7, 0.3), (-0.4, 0.6), (0.3, 0.5)), any_order=False, ends=_ONE_ALONE),
        Example(_thinned((0.7, 0.3), (0.5, 0.6)), {"normalize": True, "lambda": 0.8}, any_order=False),
    ),
    "della": (
        Example(_thinned((0.7, 0.4), (-0.4, 0.6), (0.3, 0.5), epsilon=0.2), any_order=False, ends=_ONE_ALONE),
        Example(_thinned((0.7, 0.3), (0.5, 0.6)), {"normalize": False, "rescale": False}, any_order=False),
    ),
    "della_linear": (
        Example(_thinned((0.7, 0.4), (-0.4, 0.6)), any_order=False, ends=(*_ONE_ALONE, *_ONE_OF_TWO)),
        Example(_thinned((0.7, 0.3), (0.5, 1.0)), {"rescale": False, "lambda": 0.8}, any_order=False),
    ),
    "karcher": (
        Example((_NONE, _NONE, _NONE), ends=(((_NONE,), {}, 0),)),
        Example((_NONE, _NONE), {"max_iter": 2, "tol": 1e-6}),
    ),
    "linear": (
        Example(_weights(0.7, -0.4, 0.5), ends=((_weights(0.0, 3.0), {}, 1), (_weights(1.0), {}, 0))),
        Example(_weights(0.7, 0.5), {"normalize": False}, keeps_equal=False),
    ),
    "model_stock": (
        Example((_NONE, _NONE)),
        Example((_NONE, _NONE, _NONE), {"filter_wise": True}),
    ),
    "multislerp": (
        Example(_weights(0.7, 0.4, -0.2), ends=(*_FIRST_OR_SECOND, (_weights(0.3), {}, 0))),
        Example(_weights(0.7, 0.5), {"normalize_weights": False}, keeps_equal=False),
        Example(_weights(0.7, -0.4, 0.5), {"eps": 1e-6}, base=True, ends=(*_ONE_OF_TWO, (_weights(0.3), {}, 1))),
    ),
    "nearswap": (Example((_NONE,), {"t": 0.02}, ends=(((_NONE,), {"t": 0.0}, 0), ((_NONE,), {"t": 1e9}, 1))),),
    "nuslerp": (
        Example(_weights(0.7, 0.4), ends=_FIRST_OR_SECOND),
        Example(_weights(0.7, -0.2), {"nuslerp_flatten": False}),
        Example(_weights(0.7, 0.4), {"nuslerp_flatten": False, "nuslerp_row_wise": True}),
        Example(_weights(0.7, 0.4), base=True, ends=_ONE_OF_TWO),
        Example(_weights(0.5, -0.5), {"nuslerp_flatten": False}, base=True),
        Example(_weights(0.2, 0.4), {"nuslerp_flatten": False, "nuslerp_row_wise": True}, base=True),
    ),
    "passthrough": (
        Example((_NONE,), ends=(((_NONE,), {}, 0),)),
        Example(({"scale": -0.3},), keeps_equal=False),
    ),
    "ram": (
        Example((_NONE, _NONE, _NONE), {"epsilon": 0.02}, ends=(((_NONE,), {}, 1),)),
        Example((_NONE, _NONE)),
    ),
    "ramplus_tl": (
        Example((_NONE, _NONE, _NONE), {"epsilon": 0.02, "r": 0.5, "alpha": 0.4}),
        Example((_NONE, _NONE)),
    ),
    "sce": (
        Example((_NONE, _NONE, _NONE), {"select_topk": 0.3}, ends=(((_NONE,), {"select_topk": 1.0}, 1),)),
        Example((_NONE, _NONE)),
    ),
    "slerp": (Example((_NONE,), {"t": 0.3}, ends=(((_NONE,), {"t": 0.0}, 0), ((_NONE,), {"t": 1.0}, 1))),),
    "task_arithmetic": (
        Example(_weights(0.7, -0.4), {"lambda": 0.6}, ends=(*_ONE_ALONE, *_ONE_OF_TWO)),
        Example(_weights(0.7, 0.4, -0.2), {"normalize": True}),
    ),
    "ties": (
        Example(_thinned((0.7, 0.3), (-0.4, 0.6), (0.5, 1.0)), ends=_ONE_ALONE),
        Example(_thinned((0.7, 0.5), (0.4, 0.2)), {"rescale": True, "normalize": False, "lambda": 1.3}),
    ),
}


def examples(name: str) -> tuple[Example, ...]:
    """Give the examples of a method; a method without any fails the test that asks."""
    if name not in EXAMPLES:
        pytest.fail(f"{name} is a merge method without an entry in EXAMPLES of tests/merging.py: add one, it is tested")
    return EXAMPLES[name]


def every_example(wanted: Callable[[Example], bool] = lambda _: True) -> list[Any]:
    """List (method, number of its example) for all methods, also for one that has no example.

    `wanted` says which examples to list; all if it is not given.
    """
    return [
        pytest.param(name, number, id=f"{name}-{number}")
        for name in merging.all_names()
        for number, example in enumerate(EXAMPLES.get(name, (None,)))
        if example is None or wanted(example)
    ]


def every_end() -> list[Any]:
    """List (method, number of its example, number of an end of it) for all numbers that give one source alone."""
    return [
        pytest.param(name, number, end, id=f"{name}-{number}-{end}")
        for name in merging.all_names()
        for number, example in enumerate(EXAMPLES.get(name, ()))
        for end in range(len(example.ends))
    ]


def bases(name: str, example: Example) -> int:
    """Count the bases in an example, one or none."""
    return int(merging.load(name).needs_base or example.base)


def count(name: str, example: Example) -> int:
    """Count the tensors that a method is given in an example."""
    return len(example.each) + bases(name, example)


def configuration(name: str, example: Example, models: Sequence[str], **others: object) -> dict[str, Any]:
    """Write an example as a mergekit configuration over some models; the first is the base where there is one."""
    has_base = bases(name, example)
    sources = models[has_base : count(name, example)]
    entries = [
        {"model": model, "parameters": dict(numbers)} for model, numbers in zip(sources, example.each, strict=True)
    ]
    config = {"merge_method": name, "models": entries, "parameters": dict(example.shared), **others}
    return {**config, "base_model": models[0]} if has_base else config


def complete(method: Method, given: Numbers, *, per_model: bool) -> dict[str, float]:
    """Fill in the defaults of a method's parameters. A number for a parameter that it has not is an error."""
    parameters = [parameter for parameter in method.parameters if parameter.per_model == per_model]
    assert set(given) <= {parameter.name for parameter in parameters}, f"{method.name} has no such parameter: {given}"
    chosen = {parameter.name: given.get(parameter.name, parameter.default) for parameter in parameters}
    assert None not in chosen.values(), f"{method.name} needs more numbers than {given}"
    return chosen


def merge_whole(
    method: str | Method,
    tensors: Sequence[Tensor],
    each: Sequence[Numbers],
    shared: Numbers | None = None,
    key: str = "0/x",
    **how: Any,
) -> Tensor:
    """Run a method over whole tensors, the base first where there is one; `how` goes to `streamed`.

    Parameters that are not given have their defaults. Fails where the method writes to its inputs.
    """
    found = merging.load(method) if isinstance(method, str) else method
    numbers = [complete(found, entry, per_model=True) for entry in each]
    others = complete(found, shared or {}, per_model=False)
    assert found.refuse(numbers, others) is None
    return streamed(tensors, lambda chunks: found.merge(chunks, numbers, others, key), **how)


def streamed(
    tensors: Sequence[Tensor],
    prepare: Callable[[Chunks], Callable[[Chunk], Tensor]],
    *,
    size: int | None = 64,
    device: str | None = None,
) -> Tensor:
    """Put together, in the tensors' shape, what `prepare(chunks)` gives for each chunk of about `size` elements."""
    shape = tensors[0].shape
    matrices = [tensor.reshape(-1, shape[-1] if shape else 1) for tensor in tensors]
    before = [matrix.clone() for matrix in matrices]
    rows = [Rows(f"Tensor {place}", partial(_between, matrix)) for place, matrix in enumerate(matrices)]
    with Workers(device) as workers:
        chunks = Chunks(rows, shape, workers, size=size)
        parts = chunks.map(partial(_part, prepare(chunks)))
    assert all(matrix.equal(old) for matrix, old in zip(matrices, before, strict=True)), "a source was written to"
    return torch.cat(parts).reshape(shape)


def _between(matrix: Tensor, start: int, stop: int) -> Tensor:
    return matrix[start:stop]


def _part(kernel: Callable[[Chunk], Tensor], chunk: Chunk) -> Tensor:
    shape = chunk.tensors[0].shape
    made = kernel(chunk)
    assert made.shape == shape
    assert made.dtype == torch.float32
    return made.cpu()


@contextlib.contextmanager
def threads(number: int) -> Iterator[None]:
    """Let the executor compute in some number of threads: it takes half of those that torch has."""
    before = torch.get_num_threads()
    torch.set_num_threads(2 * number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def close(found: Tensor, expected: Tensor) -> None:
    """Check that two results agree to rounding, on the scale of their largest element and of 1."""
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * max(1.0, float(expected.abs().max())))


def assert_same(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], scales: Mapping[str, float] | None = None
) -> None:
    """Check that two results agree to a millionth of each tensor's scale: its largest element if not told otherwise."""
    assert sorted(found) == sorted(expected)
    for name, tensor in expected.items():
        scale = float(tensor.abs().max()) if scales is None else scales[name]
        difference = float((found[name] - tensor).abs().max())
        assert difference <= 1e-6 * scale, f"{name} differs by {difference} at a scale of {scale}"


def seeded(shape: Sequence[int], number: int, seed: int = 0) -> list[Tensor]:
    """Draw some normal tensors that lie near each other, as fine-tuned models do."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(tuple(shape), generator=generator)
    return [first, *(first + torch.randn(tuple(shape), generator=generator) * 0.3 for _ in range(number - 1))]
