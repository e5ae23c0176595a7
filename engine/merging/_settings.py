"""mergekit's parameter settings: one value, a gradient over the layers, or values by filter; and who overrides whom."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from engine.errors import PlanError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engine.merging._method import Parameter

_SWITCHES = {
    **dict.fromkeys(("true", "yes", "on", "t", "y", "1", "1.0"), True),
    **dict.fromkeys(("false", "no", "off", "f", "n", "0", "0.0"), False),
}


def resolve(
    parameters: Iterable[Parameter], scopes: Sequence[Mapping[str, Any]], tensor: str, t: float, owner: str
) -> dict[str, float]:
    """Give each parameter its number for one tensor.

    Args:
        parameters: the parameters wanted.
        scopes: the settings that may hold them, the most specific first; a setting whose filters all miss falls
            through to the next, as in mergekit.
        tensor: the tensor's name, which filters are searched in.
        t: the layer's place between 0 (first) and 1 (last) of its slice.
        owner: names the model, or the merge, in messages.

    Raises:
        PlanError: a required parameter without a value, or a value that is no finite number.
    """
    return {parameter.name: _resolve(parameter, scopes, tensor, t, owner) for parameter in parameters}


def _resolve(parameter: Parameter, scopes: Sequence[Mapping[str, Any]], tensor: str, t: float, owner: str) -> float:
    for scope in scopes:
        if scope.get(parameter.name) is None:
            continue
        try:
            value = _evaluate(scope[parameter.name], parameter, tensor, t)
        except (TypeError, ValueError) as error:
            raise PlanError(
                f"`{parameter.name}` of {owner} for {tensor}: {error}.",
                hint="Give a number, a list of numbers (a gradient over the layers) or a list of {filter, value}.",
            ) from error
        if value is not None:
            return value
    if parameter.default is None:
        raise PlanError(
            f"`{parameter.name}` of {owner} has no value for the tensor {tensor}.",
            hint=f"Set `{parameter.name}` for every model, or once under the merge's own `parameters`; "
            "a list of filters should end with a value without one.",
        )
    return parameter.default


def _evaluate(setting: object, parameter: Parameter, tensor: str, t: float) -> float | None:
    if isinstance(setting, Mapping):
        return _evaluate([setting], parameter, tensor, t)
    if not isinstance(setting, Sequence) or isinstance(setting, str):
        return _number(setting, parameter)
    if not setting:
        return None
    if not any(isinstance(element, Mapping) for element in setting):
        return _along(setting, parameter, t)
    for condition in setting:
        if not isinstance(condition, Mapping) or "value" not in condition:
            raise TypeError(f"{condition!r} stands among filters and has no `value`")
        wanted = condition.get("filter")
        if wanted in (None, "*") or wanted in tensor:
            return _evaluate(condition["value"], parameter, tensor, t)
    return None


def _along(setting: Sequence[object], parameter: Parameter, t: float) -> float:
    """Read a gradient at `t`: numbers are interpolated linearly, switches take the value at or before `t`."""
    values = [_number(element, parameter) for element in setting]
    place = t * (len(values) - 1)
    before = int(place)
    if parameter.kind is bool:
        return values[before]
    after = min(len(values) - 1, before + 1)
    share = place - before
    return _number((1 - share) * values[before] + share * values[after], parameter)


def _number(value: object, parameter: Parameter) -> float:
    if parameter.kind is bool:
        word = str(value).lower()
        if word not in _SWITCHES:
            raise TypeError(f"{value!r} is neither true nor false")
        return _SWITCHES[word]
    if not isinstance(value, (int, float, str)):
        raise TypeError(f"{value!r} is no number")
    number = float(value)  # YAML 1.1 reads 1e-3 as a string
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is no finite number")
    if parameter.kind is int and not number.is_integer():
        raise ValueError(f"{value!r} is no whole number")
    return int(number) if parameter.kind is int else number
