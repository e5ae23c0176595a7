"""Merge methods. The folder is the registry: each public file is a method, holding `METHOD` and its `merge` function.

Listing and reading the parameters of methods imports no torch; only calling `merge` needs it.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil

from engine.errors import PlanError
from engine.merging._method import Merge, Method, Parameter
from engine.merging._plan import MergePlan, Step, plan_merge

__all__ = [
    "MERGEKIT_METHODS",
    "Merge",
    "MergePlan",
    "Method",
    "Parameter",
    "Step",
    "load",
    "names",
    "plan_merge",
]

MERGEKIT_METHODS = (
    "arcee_fusion",
    "breadcrumbs",
    "breadcrumbs_ties",
    "della",
    "della_linear",
    "karcher",
    "model_stock",
    "multislerp",
    "nearswap",
    "nuslerp",
    "ram",
    "ramplus_tl",
    "sce",
)
"""What mergekit 0.1.5 registers beside our own methods."""


def names() -> tuple[str, ...]:
    """List the methods that have a kernel here, in alphabetical order."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")))


def load(name: str) -> Method:
    """Give a method by mergekit's name.

    Raises:
        PlanError: no such method, or one that only mergekit has so far.
    """
    if name in MERGEKIT_METHODS:
        raise PlanError(
            f"not built yet: {name}, which mergekit has and this version has not.",
            hint=f"Use one of {', '.join(names())}.",
        )
    if name not in names():
        near = difflib.get_close_matches(name, (*names(), *MERGEKIT_METHODS), n=1)
        raise PlanError(
            f"There is no merge method {name!r}.",
            hint=f"Did you mean {near[0]!r}?" if near else f"Use one of {', '.join(names())}.",
        )
    method: Method = importlib.import_module(f"{__name__}.{name}").METHOD
    return method
