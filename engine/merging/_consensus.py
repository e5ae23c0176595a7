"""Task vectors: what each model changed from the base, and how several of them become one (task arithmetic's family).

A method of the family says which elements of the task vectors stay (`_sparsify.py`) and adds their sum, or what is
left of it after an election of signs, to the base.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from engine.merging._method import Parameter
from engine.merging._reduce import weighted_sum

if TYPE_CHECKING:
    from torch import Tensor

    from engine.merging._chunks import Chunk
    from engine.merging._method import Kernel

    Vectors = Callable[[Chunk], list[Tensor]]

_SMALL = 1e-8  # mergekit's: a smaller sum of weights is not divided by


def parameters(*, normalize: bool) -> tuple[Parameter, ...]:
    """List what every method of the family takes; `int8_mask` saves memory in mergekit and does nothing here."""
    return (
        Parameter("weight", per_model=True),
        Parameter("normalize", default=normalize, kind=bool),
        Parameter("lambda", default=1.0),
        Parameter("int8_mask", default=False, kind=bool),
    )


def sparse_parameters(*, normalize: bool, rescale: bool) -> tuple[Parameter, ...]:
    """List what the methods that drop elements take."""
    density = Parameter("density", default=1.0, per_model=True)
    return (*parameters(normalize=normalize), density, Parameter("rescale", default=rescale, kind=bool))


def numbers(each: Sequence[Mapping[str, float]], name: str) -> list[float]:
    """Give one parameter of every model."""
    return [entry[name] for entry in each]


def task_vectors(chunk: Chunk) -> list[Tensor]:
    """Subtract the base, which stands first, from the other sources, in their memory."""
    base, *others = chunk.tensors
    return [other.sub_(base) for other in others]


def summed(vectors: Vectors, weights: Sequence[float], shared: Mapping[str, float]) -> Kernel:
    """Add the weighted sum of the task vectors, divided by the sum of weights if `normalize`, times `lambda`."""
    divisor = sum(weights)
    share = shared["lambda"]
    if shared["normalize"] and abs(divisor) >= _SMALL:
        share /= divisor
    shares = [weight * share for weight in weights]

    def kernel(chunk: Chunk) -> Tensor:
        if not shares:
            return chunk.tensors[0]
        return weighted_sum(vectors(chunk), shares).add_(chunk.tensors[0])

    return kernel


def elected(vectors: Vectors, weights: Sequence[float], shared: Mapping[str, float]) -> Kernel:
    """Add, for each element, the weighted task vectors whose sign is that of their weighted sum (TIES).

    An element's divisor, if `normalize`, is the sum of the weights that took part; zeros take no part, and a sum of
    zero counts as positive.
    """

    def kernel(chunk: Chunk) -> Tensor:
        parts = [vector.mul_(weight) for vector, weight in zip(vectors(chunk), weights, strict=True)]
        if not parts:
            return chunk.tensors[0]
        mixed = _mean(parts, weights, normalize=bool(shared["normalize"]))
        return mixed.mul_(shared["lambda"]).add_(chunk.tensors[0])

    return kernel


def agreeing(vectors: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
    """Elect for each element the sign of the vectors' sum, a sum of zero counting as positive.

    Returns:
        In the vectors' memory their magnitudes where they have that sign, and zeros elsewhere; and the sign, 1 or -1.
    """
    # Masks stay float32: torch turns a comparison into booleans many times more slowly than into floats.
    sign = _sum([vectors[0].clone(), *vectors[1:]]).ge_(0).mul_(2).sub_(1)
    return [vector.mul_(sign).relu_() for vector in vectors], sign


def _mean(parts: list[Tensor], weights: Sequence[float], *, normalize: bool) -> Tensor:
    magnitudes, sign = agreeing(parts)
    divisor = weighted_sum([part.sign() for part in magnitudes], weights) if normalize else None
    mixed = _sum(magnitudes).mul_(sign)
    return mixed if divisor is None else mixed.div_(divisor.add_(divisor.clone().eq_(0)))


def _sum(tensors: Sequence[Tensor]) -> Tensor:
    """Add tensors up in the memory of the first."""
    total, *others = tensors
    for other in others:
        total.add_(other)
    return total
