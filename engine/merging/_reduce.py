"""Sums over whole tensors that do not depend on the number of threads.

torch splits one long sum among its threads, so its last bits change with their number. Here every partial sum covers
a fixed block, in float64, and the blocks are added exactly: a search worker and the export see the same bits.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

_CHUNK = 1 << 20  # elements converted to float64 at a time: 8 MB
_BLOCK = 1 << 12  # elements of one partial sum: below the size from which torch shares a sum among threads


def l1_norm(values: Tensor) -> float:
    """Sum the magnitudes of a float32 tensor of any shape."""
    import torch

    return _total(chunk.double().abs() for chunk in torch.split(values.reshape(-1), _CHUNK))


def dot(first: Tensor, second: Tensor) -> float:
    """Compute the inner product of two float32 tensors of equal shape."""
    import torch

    pairs = zip(torch.split(first.reshape(-1), _CHUNK), torch.split(second.reshape(-1), _CHUNK), strict=True)
    return _total(ours.double() * theirs.double() for ours, theirs in pairs)


def _total(chunks: Iterable[Tensor]) -> float:
    sums: list[float] = []
    for chunk in chunks:
        whole = chunk.numel() // _BLOCK * _BLOCK
        sums += chunk[:whole].view(-1, _BLOCK).sum(dim=1).tolist()
        sums.append(float(chunk[whole:].sum()))
    return math.fsum(sums)
