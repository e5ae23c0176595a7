"""What a merge method is: a pure tensor function, and what a plan must know about it before torch is imported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    Numbers = Mapping[str, float]


class Merge(Protocol):
    """The one shape of every method: float32 tensors of equal shape in, a new float32 tensor of that shape out.

    A method never writes to its inputs and never rounds; the executor rounds once. It uses multiplications and
    additions as separate steps (no `lerp`, `addcmul` or `alpha=`): a fused step rounds differently in the vector body
    and at the edge of each thread's share, and the same merge must give the same bits under any number of threads.
    """

    def __call__(self, sources: Sequence[Tensor], each: Sequence[Numbers], shared: Numbers, key: str) -> Tensor:
        """Merge one tensor.

        Args:
            sources: the tensors to merge; where the method needs a base, the base's tensor stands first.
            each: the per-model parameters, one mapping for each of `sources` but the base, which has none.
            shared: the global parameters.
            key: names the random draw (seed and tensor); the same key gives the same result.
        """
        ...


@dataclass(frozen=True)
class Parameter:
    """A parameter of a method. `default` is None where one has to be given; `kind` is `float` or `bool`.

    `per_model`: one value for each source, else one for the whole merge. Both may follow layers and filters.
    """

    name: str
    default: float | None = None
    kind: type = float
    per_model: bool = False

    @property
    def required(self) -> bool:
        """Whether a merge must give a value."""
        return self.default is None


def accept(each: Sequence[Numbers], shared: Numbers) -> str | None:
    """Find nothing wrong with any numbers."""
    del each, shared
    return None


@dataclass(frozen=True)
class Method:
    """A merge method, by mergekit's name. Source counts leave out the base where `needs_base` is true."""

    name: str
    summary: str
    paper: str
    parameters: tuple[Parameter, ...]
    merge: Merge
    needs_base: bool = False
    min_sources: int = 1
    max_sources: int | None = None
    refuse: Callable[[Sequence[Numbers], Numbers], str | None] = accept
    """Says what is wrong with resolved numbers, or None: asked for every tensor before the first one is read."""
