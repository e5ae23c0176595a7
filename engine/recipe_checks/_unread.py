"""What mergekit reads over in silence: settings that stand where nothing looks for them.

In a recipe each is a mistake; out of a plain mergekit configuration it is taken with a warning, and nothing changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.recipe_checks._find import Finding, find, nearest
from engine.recipe_checks._methods import taken_by

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.recipe_checks._methods import Taken
    from engine.yaml_source import Path

TOLERATED = "int8_mask"
"""A switch of old configurations, which only ever saved memory."""

# Where settings stand that hold for several models, and for one.
_SCOPES = ((), ("modules", "*"), ("slices", "*"), ("modules", "*", "slices", "*"))
_MODELS = (
    ("models", "*"),
    ("slices", "*", "sources", "*"),
    ("modules", "*", "models", "*"),
    ("modules", "*", "slices", "*", "sources", "*"),
)


def unread(path: Path, config: dict[str, Any]) -> Iterator[Finding]:
    """Find the settings of the merge at `path` that have no effect on it."""
    method = config.get("merge_method")
    taken = taken_by(method) if isinstance(method, str) else None
    if taken is None:
        return
    for place in (*_SCOPES, *_MODELS):
        for inner, value in find(config, *place, "parameters", "{}"):
            here, name = (*path, *inner), str(inner[-1])
            if name not in taken.names:
                listed = f"It takes {', '.join(taken.names)}." if taken.names else "It takes none."
                hint = nearest(name, taken.names, listed)
                yield Finding(here, f"`{method}` takes no parameter `{name}`", hint, at_key=True)
                continue
            if place in _MODELS and name != TOLERATED:
                yield from _of_one_model(here, taken, is_base=_is_base(config, inner))
            yield from _unreached(here, value)


def _of_one_model(path: Path, taken: Taken, *, is_base: bool) -> Iterator[Finding]:
    name = str(path[-1])
    if name in taken.shared:
        message = f"`{name}` is one for the whole merge, not one for each model"
        yield Finding(path, message, "Move it to the `parameters` of the merge.", at_key=True)
    elif is_base and taken.spares_base:
        message = f"the base has no `{name}` of its own"
        yield Finding(path, message, "Remove it: the others are added to the base.", at_key=True)


def _is_base(config: dict[str, Any], inner: Path) -> bool:
    """Tell whether the model whose setting stands at `inner` is the base of its slice or of the merge."""
    node: Any = config
    base = config.get("base_model")
    for step in inner[:-2]:
        node = node[step]
        base = (node.get("base_model") if isinstance(node, dict) else None) or base
    return base is not None and node.get("model") == base


def _unreached(path: Path, value: object) -> Iterator[Finding]:
    """Find what stands in a list of filters after a value that holds for every tensor."""
    conditions = value if isinstance(value, list) else []
    for index, condition in enumerate(conditions[:-1]):
        if isinstance(condition, dict) and condition.get("filter") in (None, "*") and "value" in condition:
            hint = "Put the value without a filter last."
            yield from (
                Finding((*path, later), "the value before it is for every tensor, so this one is never reached", hint)
                for later in range(index + 1, len(conditions))
            )
            return
