"""The exact k-th largest of a whole tensor's values, in one pass and without sorting them.

A sample gives two bounds between which the k-th value lies almost surely; one pass counts what is above them and
collects the few values inside, among which the k-th is then selected exactly. Where the sample misled, a histogram of
the bit patterns gives bounds that are certain. (Floyd and Rivest's selection by sampling,
https://doi.org/10.1145/360680.360691, over chunks.)
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from engine.merging._chunks import Chunk, Chunks

    Bits = NDArray[np.signedinteger[Any]]
    Values = Callable[[Chunk], Sequence[Tensor]]

_LARGEST = 0x7F7FFFFF  # the bits of the largest float32; those of non-negative floats sort as integers
_MARGIN = 6  # standard deviations of a sample's rank
_LOW_BITS = 16


@dataclass(frozen=True)
class Cut:
    """Where the largest values of a tensor end: all above `value` belong to them, and the first of its equals.

    `ties` gives for the start of a chunk how many of its ties belong and how many there are; `below` is the float32
    before `value`.
    """

    value: float
    below: float
    ties: Mapping[int, tuple[int, int]]

    def bound(self, start: int) -> tuple[float, int | None]:
        """Give what a value of a chunk must exceed, and how many of its ties belong where only some do."""
        kept, found = self.ties.get(start, (0, 0))
        return (self.below if kept else self.value), (kept if 0 < kept < found else None)


@dataclass(frozen=True)
class _Look:
    """What one chunk has above the bracket, and which values inside of it, how often each.

    Differences of bfloat16 numbers take few values: counted, they need no memory to speak of.
    """

    start: int
    above: int
    inside: Bits
    often: Bits


def largest(chunks: Chunks, values: Values, counts: Sequence[int]) -> list[Cut]:
    """Find for each of the tensors that `values` makes of a chunk where its `counts` largest elements end.

    `values` gives float32 tensors without negative elements, one for each of `counts`.
    """
    if not counts:
        return []
    sample = values(chunks.sample())
    if sample[0].numel() >= chunks.numel:
        brackets = [(1, _LARGEST)] * len(counts)
    else:
        brackets = [_bracket(each, count / chunks.numel) for each, count in zip(sample, counts, strict=True)]
    looks = _look(chunks, values, brackets)
    if not all(_holds(each, bracket[0], count) for each, bracket, count in zip(looks, brackets, counts, strict=True)):
        looks = _look(chunks, values, _certain(chunks, values, counts))
    return [_cut(each, count) for each, count in zip(looks, counts, strict=True)]


def keep(values: Tensor, cut: Cut, start: int) -> Tensor:
    """Give a chunk's values with zeros for all that are no larger in magnitude than the cut allows."""
    import torch

    bound, kept = cut.bound(start)
    found = torch.nn.functional.hardshrink(values, bound)
    if kept is not None:
        ties = (values.abs() == cut.value).reshape(-1).nonzero().reshape(-1)
        found.reshape(-1)[ties[kept:]] = 0
    return found


def mask(values: Tensor, cut: Cut, start: int) -> Tensor:
    """Turn a chunk's values, none negative, into 1 where they belong to the largest and 0 elsewhere, in place."""
    bound, kept = cut.bound(start)
    ties = None if kept is None else (values == cut.value).reshape(-1).nonzero().reshape(-1)
    found = values.gt_(bound)
    if ties is not None:
        found.reshape(-1)[ties[kept:]] = 0
    return found


def _bracket(sample: Tensor, share: float) -> tuple[int, int]:
    """Bound the value below which `1 - share` of a tensor lies, as bits of float32. Zeros are never inside."""
    import numpy as np

    ordered = np.sort(_bits(sample))
    rank = len(ordered) * (1 - share)
    margin = _MARGIN * math.sqrt(len(ordered) * share * (1 - share)) + _MARGIN
    low, high = math.floor(rank - margin), math.ceil(rank + margin)
    return (
        max(1, int(ordered[low])) if low >= 0 else 1,
        int(ordered[high]) if high < len(ordered) else _LARGEST,
    )


def _look(chunks: Chunks, values: Values, brackets: Sequence[tuple[int, int]]) -> list[list[_Look]]:
    """Look at every chunk once; for each value the looks in the order of the chunks."""

    def look(chunk: Chunk) -> list[_Look]:
        pairs = zip(values(chunk), brackets, strict=True)
        return [_Look(chunk.start, *_inside(each, low, high)) for each, (low, high) in pairs]

    return [list(each) for each in zip(*chunks.map(look), strict=True)]


def _inside(values: Tensor, low: int, high: int) -> tuple[int, Bits, Bits]:
    import numpy as np
    import torch

    bits = values.reshape(-1).view(torch.int32)
    if bits.device.type != "cpu":
        found = bits[(bits >= low) & (bits <= high)].cpu().numpy()
        return int((bits > high).sum()), *np.unique(found, return_counts=True)
    numbers = bits.numpy()
    # One comparison for both bounds: what is below `low` wraps around to a large unsigned number.
    places = np.flatnonzero((numbers - low).view(np.uint32) <= high - low)
    return int(np.count_nonzero(numbers > high)), *np.unique(numbers[places], return_counts=True)


def _holds(looks: Sequence[_Look], low: int, count: int) -> bool:
    """Whether the value at `count` is inside the bracket, or is zero."""
    above = sum(look.above for look in looks)
    return above < count and (low == 1 or count <= above + sum(int(look.often.sum()) for look in looks))


def _cut(looks: Sequence[_Look], count: int) -> Cut:
    import numpy as np

    wanted = count - sum(look.above for look in looks)
    inside, place = np.unique(np.concatenate([look.inside for look in looks]), return_inverse=True)
    often = np.bincount(place, np.concatenate([look.often for look in looks]), minlength=len(inside)).astype(np.int64)
    reach = often[::-1].cumsum()  # from the largest down
    if not len(reach) or wanted > reach[-1]:  # fewer values than that are not zero: all of them belong
        return Cut(0.0, 0.0, {})
    largest_first = int(np.searchsorted(reach, wanted))
    bits = int(inside[::-1][largest_first])
    left = wanted - (int(reach[largest_first - 1]) if largest_first else 0)
    ties: dict[int, tuple[int, int]] = {}
    for look in looks:
        found = int(look.often[look.inside == bits].sum())
        ties[look.start] = (min(left, found), found)
        left -= ties[look.start][0]
    value, below = (float(np.int32(number).view(np.float32)) for number in (bits, bits - 1))
    return Cut(value, below, ties)


def _certain(chunks: Chunks, values: Values, counts: Sequence[int]) -> list[tuple[int, int]]:
    """Find brackets that hold the values for sure: one step of the upper half of the bits, counted over the tensor."""
    import numpy as np

    steps = np.zeros((len(counts), 1 << 15), dtype=np.int64)
    adding = threading.Lock()

    def count(chunk: Chunk) -> None:
        found = [np.bincount(_bits(each) >> _LOW_BITS, minlength=steps.shape[1]) for each in values(chunk)]
        with adding:
            steps[:] += found

    chunks.map(count)
    brackets = []
    for each, wanted in zip(steps, counts, strict=True):
        at_least = each[::-1].cumsum()[::-1]
        step = int(np.flatnonzero(at_least >= wanted)[-1])
        brackets.append((max(1, step << _LOW_BITS), (step + 1 << _LOW_BITS) - 1))
    return brackets


def _bits(values: Tensor) -> Bits:
    import torch

    return values.reshape(-1).view(torch.int32).cpu().numpy()
