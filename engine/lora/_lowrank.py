"""Low-rank arithmetic: the best factors of rank r of a product of factors, or of a dense update (Eckart-Young).

A result's sign and scale are free: each pair of columns is balanced (both carry the root of its singular value, so
that neither factor outgrows a small dtype), and the largest element of B's column is positive, which most LAPACK
builds agree on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_EXACT = 512  # up to this many rows or columns a whole decomposition costs little
_OVERSAMPLING = 32
_ITERATIONS = 6
_ROWS = 512  # rows of a residual that are in memory at a time
_NOISE = 1e-14  # of float64, relative to what went in: a singular value below it is an exact cancellation


@dataclass(frozen=True)
class Factors:
    """B [rows, rank] and A [rank, columns] in float32, the norm of the update and that of what they miss of it."""

    b: Tensor
    a: Tensor
    norm: float
    residual: float


def recompress(b: Tensor, a: Tensor, rank: int) -> Factors:
    """Give the best approximation of B @ A of a rank, without forming the product.

    B = Q_b R_b and A^T = Q_a R_a leave a small core R_b R_a^T, whose singular values are those of the product: both
    norms follow from them exactly. In float64, which costs little at this size and keeps the small singular values
    that float32 would lose beside the large ones.

    Args:
        b: [rows, R], float32 or float64.
        a: [R, columns], float32 or float64.
        rank: of the result; smaller where the product cannot have it.
    """
    import torch

    left, left_core = torch.linalg.qr(b.double())
    right, right_core = torch.linalg.qr(a.double().T)
    u, values, vh = torch.linalg.svd(left_core @ right_core.T, full_matrices=False)
    floor = _NOISE * float(torch.linalg.matrix_norm(left_core) * torch.linalg.matrix_norm(right_core))
    values = values.where(values > floor, 0)
    norm, residual = (float(torch.linalg.vector_norm(part)) for part in (values, values[rank:]))
    b, a = _balanced(left @ u[:, :rank], values[:rank], right @ vh[:rank].T)
    return Factors(b, a, norm, residual)


def norm_of_product(b: Tensor, a: Tensor) -> float:
    """Give the Frobenius norm of B @ A without forming it."""
    return recompress(b, a, 0).norm


def truncate(update: Tensor, rank: int) -> Factors:
    """Give the best approximation of a dense float32 update [rows, columns] of a rank.

    A large one is decomposed by a randomised subspace iteration (https://arxiv.org/abs/0909.4061) from a fixed seed.
    The residual is that of the float32 factors themselves, measured element by element: a difference of norms would
    lose its digits where the error is small.
    """
    import torch

    rank = min(rank, *update.shape)
    width = rank + _OVERSAMPLING
    if min(update.shape) <= max(_EXACT, 2 * width):
        u, values, vh = torch.linalg.svd(update.double(), full_matrices=False)
        v = vh.T
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            u, values, v = torch.svd_lowrank(update, width, niter=_ITERATIONS)
    b, a = _balanced(u[:, :rank], values[:rank], v[:, :rank])
    norms, residuals = [], []
    for start in range(0, len(update), _ROWS):
        part = update[start : start + _ROWS]
        norms.append(torch.linalg.vector_norm(part, dtype=torch.float64))
        residuals.append(torch.linalg.vector_norm(part - b[start : start + _ROWS] @ a, dtype=torch.float64))
    norm, residual = (float(torch.linalg.vector_norm(torch.stack(parts))) for parts in (norms, residuals))
    return Factors(b, a, norm, residual)


def _balanced(left: Tensor, values: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Turn singular vectors, in columns, into contiguous float32 factors."""
    largest = left.gather(0, left.abs().argmax(0, keepdim=True))
    signs = largest.sign()
    roots = values.sqrt() * signs
    b, a = left * roots, (right * roots).T
    return b.float().contiguous(), a.float().contiguous()
