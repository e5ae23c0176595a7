"""Intervals and paired tests: every number that is shown carries its n and a 95 % interval.

Items of one cluster (a fact, a case) are not independent, so the bootstrap draws whole clusters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import binomtest

from evaluators._types import ItemResult

if TYPE_CHECKING:
    from numpy.typing import NDArray

RESAMPLES = 10_000
_BLOCK = 1_000


@dataclass(frozen=True)
class Estimate:
    """A share or a difference of shares with its 95 % interval and the count of items."""

    value: float
    ci95: tuple[float, float]
    n: int


def accuracy_interval(results: Sequence[ItemResult], *, seed: int) -> Estimate:
    """Estimate the accuracy by a cluster bootstrap (10,000 resamples, percentiles)."""
    values = [float(result.correct) for result in results]
    return _estimate(values, [result.cluster for result in results], seed)


def paired_difference(a: Sequence[ItemResult], b: Sequence[ItemResult], *, seed: int) -> tuple[Estimate, float]:
    """Estimate how much more `a` gets right than `b` on the same items, and the exact McNemar p-value of it.

    Raises:
        ValueError: The two did not answer the same items.
    """
    other: Mapping[str, ItemResult] = {result.id: result for result in b}
    if len(a) != len(b) or any(result.id not in other for result in a):
        raise ValueError("a paired difference needs the same items on both sides")
    values = [float(result.correct) - float(other[result.id].correct) for result in a]
    gained, lost = sum(value > 0 for value in values), sum(value < 0 for value in values)
    p = binomtest(gained, gained + lost, 0.5).pvalue if gained + lost else 1.0
    return _estimate(values, [result.cluster for result in a], seed), float(p)


def _estimate(values: Sequence[float], clusters: Sequence[str], seed: int) -> Estimate:
    names = {name: index for index, name in enumerate(dict.fromkeys(clusters))}
    sums, counts = np.zeros(len(names)), np.zeros(len(names))
    for value, cluster in zip(values, clusters, strict=True):
        sums[names[cluster]] += value
        counts[names[cluster]] += 1
    low, high = np.percentile(_resampled(sums, counts, seed), [2.5, 97.5])
    return Estimate(float(sums.sum() / counts.sum()), (float(low), float(high)), len(values))


def _resampled(sums: NDArray[np.float64], counts: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Draw clusters with replacement, a block of resamples at a time so that memory stays small."""
    generator = np.random.default_rng(seed)
    means: list[NDArray[np.float64]] = []
    for _ in range(RESAMPLES // _BLOCK):
        drawn = generator.integers(len(sums), size=(_BLOCK, len(sums)))
        means.append(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    return np.concatenate(means)
