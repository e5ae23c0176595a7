"""The kinds of value that a recipe holds: strict numbers, texts, lists that may be one text, and model references."""

from typing import Annotated, Any

from annotated_types import Ge, Gt, Le, MinLen
from pydantic import AllowInfNan, BeforeValidator, PlainSerializer, PlainValidator, StringConstraints, WithJsonSchema
from pydantic.types import Strict

from engine.references import SAFE_NAME, ModelReference, parse_reference

Number = Annotated[float, Strict(), AllowInfNan(allow_inf_nan=False)]
Positive = Annotated[Number, Gt(0)]
NotNegative = Annotated[Number, Ge(0)]
Share = Annotated[Number, Ge(0), Le(1)]
Whole = Annotated[int, Strict(), Ge(0)]
Count = Annotated[int, Strict(), Ge(1)]
Flag = Annotated[bool, Strict()]
Text = Annotated[str, StringConstraints(min_length=1)]
Name = Annotated[str, StringConstraints(pattern=f"^{SAFE_NAME}$")]
Sha256 = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
RepoId = Annotated[str, StringConstraints(pattern=r"^[\w.-]+/[\w.-]+$")]


def _as_list(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _as_written(values: tuple[str, ...]) -> str | list[str]:
    return values[0] if len(values) == 1 else list(values)


_WRITTEN = PlainSerializer(_as_written, when_used="json")
Texts = Annotated[tuple[Text, ...], BeforeValidator(_as_list), MinLen(1), _WRITTEN]
"""One text or a list of texts; always a tuple once read."""

Digests = Annotated[tuple[Sha256, ...], BeforeValidator(_as_list), MinLen(1), _WRITTEN]


def _reference(value: Any) -> ModelReference:  # noqa: ANN401 - whatever the file holds
    return value if isinstance(value, ModelReference) else parse_reference(value)


Reference = Annotated[
    ModelReference,
    PlainValidator(_reference),
    PlainSerializer(ModelReference.as_written, return_type=str | dict[str, str], when_used="json"),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "object"}]}),
]


def _switch(value: Any) -> float | bool:  # noqa: ANN401 - whatever the file holds
    if isinstance(value, (bool, int, float)) and abs(value) < float("inf"):
        return value
    raise ValueError(
        f"wants a number, true or false, got {value!r}",
        "Or a range {low, high}, or a list with a number for each layer group.",
    )


NumberOrFlag = Annotated[float | bool, PlainValidator(_switch), WithJsonSchema({"type": ["number", "boolean"]})]


def _target_modules(value: object) -> object:
    if isinstance(value, str) and value != "all-linear":
        raise ValueError(f"is all-linear or a list of module names, got {value!r}", f"Write [{value}].")
    return value


TargetModules = Annotated[
    tuple[Text, ...] | str,
    BeforeValidator(_target_modules),
    WithJsonSchema({"anyOf": [{"const": "all-linear"}, {"type": "array", "items": {"type": "string"}}]}),
]
