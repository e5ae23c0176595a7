"""Which elements of a task vector are kept: the largest (TIES) or a random share (DARE)."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from engine.merging._reduce import l1_norm

if TYPE_CHECKING:
    from torch import Tensor

_EPSILON = 1e-7  # mergekit's: a vector smaller than this is not scaled up
_LOW_BITS = 16
_LANES = 1 << 32


def keep_largest(delta: Tensor, density: float, *, rescale: bool) -> Tensor:
    """Keep the `density` share of largest magnitude, at least one element, and set the rest to zero.

    Where magnitudes are equal at the threshold the first in memory are kept; mergekit keeps whichever its unstable
    sort puts first. With `rescale` the result has the L1 norm of `delta`.
    """
    if density >= 1:
        return delta
    if density <= 0 or delta.numel() == 0:
        return delta * 0
    return _masked(delta, _largest(delta, max(1, int(density * delta.numel()))), rescale=rescale)


def keep_random(delta: Tensor, density: float, key: str, *, rescale: bool) -> Tensor:
    """Keep each element with probability `density`, drawn by `random_mask`, and set the rest to zero.

    With `rescale` the result has the L1 norm of `delta`, as in mergekit (the DARE paper divides by the density, which
    is the same in expectation).
    """
    if density >= 1:
        return delta
    return _masked(delta, random_mask(delta, density, key), rescale=rescale)


def random_mask(like: Tensor, density: float, key: str) -> Tensor:
    """Draw a boolean mask of `like`'s shape and device that depends on nothing but `key`, `density` and the position.

    Element i reads the i-th 32-bit half of the Philox stream keyed by sha256 of `key` (a counter-based generator,
    https://doi.org/10.1145/2063384.2063405; numpy keeps its raw stream stable).
    """
    import numpy as np
    import torch

    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:16], "little")
    words = np.random.Philox(key=seed).random_raw((like.numel() + 1) // 2).astype("<u8", copy=False)
    lanes = words.view("<u4")[: like.numel()]
    threshold = min(max(round(density * _LANES), 0), _LANES - 1)
    return torch.from_numpy(lanes < np.uint32(threshold)).reshape(like.shape).to(like.device)


def _masked(delta: Tensor, mask: Tensor, *, rescale: bool) -> Tensor:
    kept = delta * mask
    if not rescale:
        return kept
    before, after = l1_norm(delta), l1_norm(kept)
    return kept if before < _EPSILON or after < _EPSILON else kept * (before / after)


def _largest(delta: Tensor, count: int) -> Tensor:
    """Mark exactly `count` elements of largest magnitude.

    The bits of a non-negative float32 sort as an integer, so two histograms, of the upper and of the lower half of
    the bits, find the exact threshold without sorting.
    """
    import torch

    bits = delta.abs().reshape(-1).view(torch.int32)
    upper, above = _bucket(bits >> _LOW_BITS, count)
    inside = bits[(bits >> _LOW_BITS) == upper] & ((1 << _LOW_BITS) - 1)
    lower, above_inside = _bucket(inside, count - above)
    threshold = (upper << _LOW_BITS) | lower
    mask = bits > threshold
    ties = (bits == threshold).nonzero().reshape(-1)
    mask[ties[: count - above - above_inside]] = True
    return mask.reshape(delta.shape)


def _bucket(values: Tensor, count: int) -> tuple[int, int]:
    """Find the value at which the `count` largest of `values` end, and how many are larger than it."""
    larger_or_equal = values.bincount(minlength=1).flip(0).cumsum(0)
    place = int((larger_or_equal < count).sum())
    above = int(larger_or_equal[place - 1]) if place else 0
    return larger_or_equal.numel() - 1 - place, above
