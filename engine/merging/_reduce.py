"""Sums over whole tensors that depend neither on the size of the chunks nor on the number of threads.

Each row is summed by itself in float32 and the rows are added exactly, so a search worker and the export see the same
bits however they share out the work.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from engine.merging._chunks import Chunk, Chunks


def totals(chunks: Chunks, values: Callable[[Chunk], Sequence[Tensor]]) -> list[float]:
    """Sum each of the [rows, columns] tensors that `values` makes of a chunk over all chunks."""
    found = chunks.map(lambda chunk: [row_sums(tensor) for tensor in values(chunk)])
    return [math.fsum(number for rows in parts for number in rows) for parts in zip(*found, strict=True)]


def row_sums(tensor: Tensor) -> list[float]:
    """Sum each row of a float32 matrix."""
    sums: list[float] = tensor.sum(dim=1).tolist()
    return sums


def gram(chunks: Chunks, vectors: Callable[[Chunk], Sequence[Tensor]]) -> list[list[float]]:
    """Compute the inner products of the vectors that `vectors` makes of a chunk: a symmetric matrix."""

    def products(chunk: Chunk) -> list[Tensor]:
        found = vectors(chunk)
        return [first * second for place, first in enumerate(found) for second in found[place:]]

    sums = totals(chunks, products)
    count = (math.isqrt(8 * len(sums) + 1) - 1) // 2
    upper = iter(sums)
    matrix = [[0.0] * count for _ in range(count)]
    for first in range(count):
        for second in range(first, count):
            matrix[first][second] = matrix[second][first] = next(upper)
    return matrix


def cosine(dot: float, first: float, second: float, *, epsilon: float = 0.0) -> float:
    """Give the cosine of the angle between two vectors from their inner product and squared norms.

    A norm of at most `epsilon` is taken for 1.
    """
    norms = [math.sqrt(squared) for squared in (first, second)]
    scale = math.prod(norm if norm > epsilon else 1.0 for norm in norms)
    return max(-1.0, min(1.0, dot / scale))


def weighted_sum(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Sum `weight * tensor` into the first tensor's memory; the others are written over as well."""
    first, *others = tensors
    total = first.mul_(weights[0])
    for tensor, weight in zip(others, weights[1:], strict=True):
        total.add_(tensor.mul_(weight))
    return total
