"""What a merge method takes, without importing what computes: parameters of each model or of the merge; a base."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Taken:
    """The parameters of a method: one value for each model, or one for the whole merge.

    `needs_base`: it starts from a base. `spares_base`: what each model has, the base has not.
    """

    each: tuple[str, ...]
    shared: tuple[str, ...]
    needs_base: bool
    spares_base: bool

    @property
    def names(self) -> tuple[str, ...]:
        """Name all parameters."""
        return (*self.each, *self.shared)


def methods() -> tuple[str, ...]:
    """List every merge method, in alphabetical order."""
    from engine import merging

    return merging.all_names()


def taken_by(method: str) -> Taken | None:
    """Say what a merge method takes; None for a method that does not exist."""
    from engine import merging

    if method not in merging.all_names():
        return None
    found = merging.load(method)
    each = tuple(parameter.name for parameter in found.parameters if parameter.per_model)
    shared = tuple(parameter.name for parameter in found.parameters if not parameter.per_model)
    return Taken(each, shared, found.needs_base, found.needs_base or found.takes_base)
