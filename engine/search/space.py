"""The search space: every range of a merge by name, and a merge with a point's numbers in their places.

Names follow the file: `m1.weight` is the weight of the merge's second model, `t.self_attn` the value of the filter
`self_attn`, `m1.weight.2` the third layer group. Imports neither torch nor Optuna.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

Point = Mapping[str, float]
_MODULES = ("self_attn", "mlp", "other")
# Steps of the path into a configuration that say nothing.
_SILENT = ("models", "slices", "sources", "parameters", "value")


def ranges(config: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """List the ranges of a mergekit configuration by name, in the file's order; `by` gives one name for each part."""
    return {f"{name}.{part}" if part else name: value for name, value in _walk(config, "") for part in _parts(value)}


def uniform_point(config: Mapping[str, Any]) -> dict[str, float]:
    """Give the mixture without a search: weights of 1/n, everything else in the middle of its range."""
    found = ranges(config)
    count = len({_owner(name) for name in found if ".weight" in name})
    point: dict[str, float] = {}
    for name, value in found.items():
        share = 1 / count if ".weight" in name else (value["low"] + value["high"]) / 2
        point[name] = nearest(share, value)
    return point


def parent_points(config: Mapping[str, Any]) -> list[dict[str, float]]:
    """Give the points that are one parent alone (its weight 1, the others' 0), where the ranges reach so far."""
    found = ranges(config)
    models = list(dict.fromkeys(_owner(name) for name in found if ".weight" in name))
    points: list[dict[str, float]] = []
    for model in models:
        point = uniform_point(config)
        point |= {name: float(_owner(name) == model) for name in found if ".weight" in name}
        if all(nearest(value, found[name]) == value for name, value in point.items()):
            points.append(point)
    return points


def with_sum(config: Mapping[str, Any], total: float) -> dict[str, float]:
    """Give the uniform point with its weights scaled to a sum, kept within the ranges."""
    uniform, found = uniform_point(config), ranges(config)
    return {
        name: nearest(value * total, found[name]) if ".weight" in name else value for name, value in uniform.items()
    }


def with_point(config: Any, point: Point, layers: int) -> Any:  # noqa: ANN401 - any part of a configuration
    """Put a point's numbers in the places of the ranges: what comes out is a plain mergekit configuration.

    Args:
        config: The configuration with ranges.
        point: A number for every name of `ranges`.
        layers: How many layers the result has; a layer group becomes a list with one number a layer.
    """
    return _fill(config, "", point, layers)


def is_range(value: Any) -> bool:  # noqa: ANN401 - any part of a configuration
    """Tell a range from the other values of a parameter."""
    return isinstance(value, Mapping) and "low" in value and "high" in value


def nearest(number: float, value: Mapping[str, Any]) -> float:
    """Give the number of a range that is nearest: within its bounds and, where it has a step, on its grid.

    In decimals, as Optuna reckons: 0.2 + 3 * 0.4 is 1.4, and the float beside it is refused as outside.
    """
    low, high = (Decimal(str(value[end])) for end in ("low", "high"))
    within = min(max(Decimal(str(number)), low), high)
    if value.get("step") is None:
        return float(within)
    step = Decimal(str(value["step"]))
    steps = min(round((within - low) / step), int((high - low) // step))
    return float(low + steps * step)


def _owner(name: str) -> str:
    """Name the model that a weight belongs to: `m1` for `m1.weight.2`, and for `0.m1.weight` in the first slice."""
    return name.partition(".weight")[0].rpartition(".")[2]


def _parts(value: Mapping[str, Any]) -> tuple[str, ...]:
    if value.get("by") == "layer_group":
        return tuple(str(group) for group in range(value["groups"]))
    return _MODULES if value.get("by") == "module" else ("",)


def _walk(node: Any, name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:  # noqa: ANN401
    if is_range(node):
        yield name, node
        return
    for step, child in _children(node):
        yield from _walk(child, _join(name, step))


def _fill(node: Any, name: str, point: Point, layers: int) -> Any:  # noqa: ANN401
    if is_range(node):
        return _value(node, name, point, layers)
    filled = [_fill(child, _join(name, step), point, layers) for step, child in _children(node)]
    if isinstance(node, Mapping):
        return dict(zip(node, filled, strict=True))
    return filled if isinstance(node, list) else node


def _children(node: Any) -> Iterator[tuple[str, Any]]:  # noqa: ANN401
    if isinstance(node, Mapping):
        yield from node.items()
    elif isinstance(node, list):
        for index, child in enumerate(node):
            named = (child.get("model") or child.get("filter")) if isinstance(child, Mapping) else None
            yield named or str(index), child


def _join(name: str, step: str) -> str:
    if step in _SILENT:
        return name
    return f"{name}.{step}" if name else step


def _value(value: Mapping[str, Any], name: str, point: Point, layers: int) -> Any:  # noqa: ANN401
    if value.get("by") == "layer_group":
        groups = value["groups"]
        return [point[f"{name}.{layer * groups // layers}"] for layer in range(layers)]
    if value.get("by") == "module":
        conditions = [{"filter": module, "value": point[f"{name}.{module}"]} for module in _MODULES[:-1]]
        return [*conditions, {"value": point[f"{name}.{_MODULES[-1]}"]}]
    return point[name]
