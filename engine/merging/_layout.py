"""Which tensors go into which: a mergekit configuration laid out as one list of merged tensors."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.errors import PlanError

# The first number after the name of a layer list: `model.layers.3.`, `transformer.h.3.`, `encoder.blocks.3.`
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")
# These stand before the layers and belong to the first slice; every other tensor outside the layers to the last.
_BEFORE = re.compile(r"embed|(?:^|\.)wte\.|(?:^|\.)wpe\.")

Names = Sequence[str]
_Place = tuple[str, str]  # what stands before and after the layer's number


@dataclass(frozen=True)
class Contribution:
    """One source's part of a merged tensor: the tensor's name in that source, and the source's own settings."""

    source: str
    tensor: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class MergedTensor:
    """A tensor of the result. `t` is its layer's place in its slice, 0 to 1, and 0 outside the layers.

    `parameters` are the settings of its slice.
    """

    name: str
    t: float
    inputs: tuple[Contribution, ...]
    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class _ByLayer:
    layers: Mapping[int, list[_Place]]
    others: tuple[str, ...]


@dataclass(frozen=True)
class _Part:
    source: str
    start: int
    stop: int
    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class _Slice:
    parts: tuple[_Part, ...]
    parameters: Mapping[str, Any]

    @property
    def layers(self) -> int:
        return self.parts[0].stop - self.parts[0].start


def lay_out(config: Mapping[str, Any], names: Mapping[str, Names]) -> tuple[MergedTensor, ...]:
    """Lay a mergekit configuration out, by the rules of mergekit's planner.

    Slices are stacked and their layers renumbered. Tensors before the layers come from the first slice's sources,
    those after them from the last one's (from all of these; mergekit 0.1.5 loses some where the first slice has fewer
    sources). Where sources have different tensors the union is laid out, so that whoever compares them can say what
    is missing where.

    Args:
        config: `models` or `slices`, and `base_model`; other keys are not read.
        names: the tensor names of every source.

    Raises:
        PlanError: a model that is not among the sources, layers that do not exist, slices of unequal length.
    """
    by_layer = {source: _by_layer(tensors) for source, tensors in names.items()}
    slices = _slices(config, by_layer)
    first, last = slices[0], slices[-1]
    before = [_outside(first, name) for name in _others(first, by_layer) if _BEFORE.search(name)]
    after = [_outside(last, name) for name in _others(last, by_layer) if not _BEFORE.search(name)]
    starts = itertools.accumulate((piece.layers for piece in slices), initial=0)
    stacked = [_layers(piece, by_layer, start) for piece, start in zip(slices, starts, strict=False)]
    return (*before, *itertools.chain.from_iterable(stacked), *after)


def layer_sources(config: Mapping[str, Any], names: Mapping[str, Names]) -> tuple[tuple[str, int], ...]:
    """Name for each layer of the result the source and the layer there that it follows: its slice's first source."""
    slices = _slices(config, {source: _by_layer(tensors) for source, tensors in names.items()})
    parts = [piece.parts[0] for piece in slices]
    return tuple((part.source, layer) for part in parts for layer in range(part.start, part.stop))


def _by_layer(names: Names) -> _ByLayer:
    layers: dict[int, list[_Place]] = {}
    others: list[str] = []
    for name in names:
        match = _LAYER.search(name)
        if match:
            layers.setdefault(int(match[1]), []).append((name[: match.start(1)], name[match.end(1) :]))
        else:
            others.append(name)
    return _ByLayer(layers, tuple(others))


def _slices(config: Mapping[str, Any], by_layer: Mapping[str, _ByLayer]) -> tuple[_Slice, ...]:
    if config.get("slices"):
        return tuple(_slice(number, piece, by_layer) for number, piece in enumerate(config["slices"]))
    if not config.get("models"):
        raise PlanError("A merge needs `models` or `slices`, and this one has neither.")
    entries = list(config["models"])
    base = config.get("base_model")
    if base is not None and base not in [entry["model"] for entry in entries]:
        entries.append({"model": base})
    whole = [{**entry, "layer_range": [0, _count(entry["model"], by_layer)]} for entry in entries]
    return (_slice(None, {"sources": whole}, by_layer),)


def _count(source: str, by_layer: Mapping[str, _ByLayer]) -> int:
    if source not in by_layer:
        raise PlanError(f"The merge names the model {source!r}, which is not among its sources.")
    return len(by_layer[source].layers)


def _slice(number: int | None, piece: Mapping[str, Any], by_layer: Mapping[str, _ByLayer]) -> _Slice:
    place = "the merge" if number is None else f"slice {number + 1}"
    parts = tuple(_part(place, entry, by_layer) for entry in piece["sources"])
    sources = [part.source for part in parts]
    repeated = [source for position, source in enumerate(sources) if source in sources[:position]]
    if repeated:
        raise PlanError(
            f"{repeated[0]!r} stands twice in {place}.", hint="Name each model once and add its weights up."
        )
    counts = [f"{part.source}: {part.stop - part.start}" for part in parts]
    if any(part.stop - part.start != parts[0].stop - parts[0].start for part in parts):
        raise PlanError(
            f"The models of {place} have different numbers of layers ({', '.join(counts)}).",
            hint="Give each model of a slice a `layer_range` of the same length.",
        )
    return _Slice(parts, piece.get("parameters") or {})


def _part(place: str, entry: Mapping[str, Any], by_layer: Mapping[str, _ByLayer]) -> _Part:
    source = entry["model"]
    count = _count(source, by_layer)
    start, stop = entry["layer_range"]
    if not 0 <= start <= stop <= count:
        raise PlanError(
            f"{place[0].upper()}{place[1:]} takes the layers {start} to {stop} of {source!r}, which has {count}.",
            hint="A `layer_range` is [first, one past the last], counted from 0.",
        )
    return _Part(source, start, stop, entry.get("parameters") or {})


def _layers(piece: _Slice, by_layer: Mapping[str, _ByLayer], offset: int) -> list[MergedTensor]:
    return [
        MergedTensor(
            f"{prefix}{offset + layer}{suffix}",
            layer / (piece.layers - 1) if piece.layers > 1 else 1.0,
            tuple(
                Contribution(part.source, f"{prefix}{part.start + layer}{suffix}", part.parameters)
                for part in piece.parts
            ),
            piece.parameters,
        )
        for layer in range(piece.layers)
        for prefix, suffix in _places(piece, by_layer, layer)
    ]


def _places(piece: _Slice, by_layer: Mapping[str, _ByLayer], layer: int) -> list[_Place]:
    found = [by_layer[part.source].layers.get(part.start + layer, []) for part in piece.parts]
    return list(dict.fromkeys(itertools.chain.from_iterable(found)))


def _others(piece: _Slice, by_layer: Mapping[str, _ByLayer]) -> list[str]:
    return list(dict.fromkeys(name for part in piece.parts for name in by_layer[part.source].others))


def _outside(piece: _Slice, name: str) -> MergedTensor:
    inputs = tuple(Contribution(part.source, name, part.parameters) for part in piece.parts)
    return MergedTensor(name, 0.0, inputs, piece.parameters)
