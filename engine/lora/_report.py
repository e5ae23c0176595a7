"""How well an adapter stands for an update: norms of the update and of what the adapter misses, module by module."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True)
class Approximation:
    """One module: `norm` is the update's Frobenius norm, `residual` that of what the written factors miss of it."""

    module: str
    rank: int
    norm: float
    residual: float

    @property
    def error(self) -> float:
        """The relative error, ||D - D_r|| / ||D||; 0 for an update that is zero."""
        return _ratio(self.residual, self.norm)


def total_error(parts: Iterable[Approximation]) -> float:
    """Give the relative error of several modules taken as one update."""
    kept = tuple(parts)
    return _ratio(math.hypot(*(part.residual for part in kept)), math.hypot(*(part.norm for part in kept)))


def _ratio(residual: float, norm: float) -> float:
    return residual / norm if norm else 0.0
