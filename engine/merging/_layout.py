"""Which tensors go into which: a mergekit configuration laid out as one list of merged tensors."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.errors import PlanError
from engine.merging._modules import Module, modules_of, owned, place_of, stands_before

Names = Sequence[str]
Scopes = tuple[Mapping[str, Any], ...]
_Place = tuple[str, str]  # what stands before and after the layer's number


@dataclass(frozen=True)
class Contribution:
    """One source's part of a merged tensor: the tensor's name in that source, and the source's own settings."""

    source: str
    tensor: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class MergedTensor:
    """A tensor of the result.

    `t` is its layer's place in its slice, 0 to 1, and 0 outside the layers. `scopes` are the settings of its slice, of
    its module and of the merge, in which order they count; a source's own come before them. `base` is the base of its
    slice, if there is one.
    """

    name: str
    t: float
    inputs: tuple[Contribution, ...]
    scopes: Scopes
    base: str | None


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
    scopes: Scopes
    base: str | None

    @property
    def layers(self) -> int:
        return self.parts[0].stop - self.parts[0].start


@dataclass(frozen=True)
class _Stack:
    """The slices of one module, and the tensors of that module in each source."""

    module: Module
    slices: tuple[_Slice, ...]
    by_layer: Mapping[str, _ByLayer]


def lay_out(config: Mapping[str, Any], names: Mapping[str, Names], architecture: str = "") -> tuple[MergedTensor, ...]:
    """Lay a mergekit configuration out, by the rules of mergekit's planner.

    Slices are stacked and their layers renumbered, for each module apart. Tensors before the layers come from the first
    slice's sources, those after them from the last one's (from all of these; mergekit 0.1.5 loses some where the first
    slice has fewer sources). Where sources have different tensors the union is laid out, so that whoever compares them
    can say what is missing where. Modules that the configuration leaves out are an error; mergekit would write a model
    without them.

    Args:
        config: `models`, `slices` or `modules`, `base_model` and `parameters`; other keys are not read.
        names: the tensor names of every source.
        architecture: the model class that the sources have in common, by which modules are told apart.

    Raises:
        PlanError: a model that is not among the sources, layers that do not exist, slices of unequal length, modules
            that the architecture has not.
    """
    stacks = _stacks(config, names, modules_of(architecture))
    return tuple(itertools.chain.from_iterable(_laid(stack) for stack in stacks))


def layer_sources(
    config: Mapping[str, Any], names: Mapping[str, Names], architecture: str = ""
) -> tuple[tuple[str, int], ...]:
    """Name for each layer of the result the source and the layer there that it follows: its slice's first source.

    Of several modules, the one whose layers a config counts as `num_hidden_layers`.
    """
    stacks = _stacks(config, names, modules_of(architecture))
    main = next(stack for stack in stacks if stack.module.is_main)
    parts = [piece.parts[0] for piece in main.slices]
    return tuple((part.source, layer) for part in parts for layer in range(part.start, part.stop))


def model_names(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Name the models whose tensors a merge takes, in its order, and last a base that stands nowhere else."""
    definitions = [config, *(config.get("modules") or {}).values()]
    entries = [entry for one in definitions for entry in one.get("models") or ()]
    entries += [entry for one in definitions for piece in one.get("slices") or () for entry in piece["sources"]]
    names = [entry["model"] for entry in entries]
    base = config.get("base_model")
    return tuple(dict.fromkeys(names if base is None else [*names, base]))


def _stacks(config: Mapping[str, Any], names: Mapping[str, Names], modules: Sequence[Module]) -> list[_Stack]:
    definitions = _definitions(config, modules)
    stacks: list[_Stack] = []
    for module, definition in definitions:
        by_layer = {source: _by_layer(owned(module, modules, tensors)) for source, tensors in names.items()}
        scopes = (definition.get("parameters") or {}, config.get("parameters") or {})
        slices = _slices(definition, config.get("base_model"), scopes, by_layer)
        stack = _Stack(module, slices, by_layer)
        if len(modules) > 1:
            _refuse_other_depth(stack)
        stacks.append(stack)
    return stacks


def _definitions(config: Mapping[str, Any], modules: Sequence[Module]) -> list[tuple[Module, Mapping[str, Any]]]:
    """Give each module what is merged into it, in the order of the configuration."""
    given = config.get("modules")
    known = {module.name: module for module in modules}
    listed = ", ".join(known)
    if not given:
        if config.get("slices") and len(modules) > 1:
            raise PlanError(
                "`slices` do not say which layers are meant: these models have several modules.",
                hint=f"Put them under `modules`, by name: {listed}.",
            )
        inputs = {key: config.get(key) for key in ("models", "slices")}
        return [(module, inputs) for module in modules]
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"Its modules: {listed}."
            raise PlanError(f"These models have no module {name!r}.", hint=hint)
    missing = [name for name in known if name not in given]
    if missing:
        raise PlanError(
            f"`modules` leaves {', '.join(missing)} out, and the result would lack its tensors.",
            hint=f"List every module: {listed}.",
        )
    return [(known[name], definition) for name, definition in given.items()]


def _laid(stack: _Stack) -> list[MergedTensor]:
    first, last = stack.slices[0], stack.slices[-1]
    before = [_outside(first, name) for name in _others(first, stack.by_layer) if stands_before(name)]
    after = [_outside(last, name) for name in _others(last, stack.by_layer) if not stands_before(name)]
    starts = itertools.accumulate((piece.layers for piece in stack.slices), initial=0)
    layers = [_layers(piece, stack.by_layer, start) for piece, start in zip(stack.slices, starts, strict=False)]
    return [*before, *itertools.chain.from_iterable(layers), *after]


def _refuse_other_depth(stack: _Stack) -> None:
    depth = sum(piece.layers for piece in stack.slices)
    first = stack.slices[0].parts[0].source
    if depth != len(stack.by_layer[first].layers):
        raise PlanError(
            f"not built yet: the module {stack.module.name} with {depth} layers instead of the "
            f"{len(stack.by_layer[first].layers)} that {first} has.",
            hint="Stack layers in models of one module, or keep their number.",
        )


def _by_layer(names: Names) -> _ByLayer:
    layers: dict[int, list[_Place]] = {}
    others: list[str] = []
    for name in names:
        place = place_of(name)
        if place is None:
            others.append(name)
        else:
            layers.setdefault(place[1], []).append((place[0], place[2]))
    return _ByLayer(layers, tuple(others))


def _slices(
    definition: Mapping[str, Any], base: str | None, scopes: Scopes, by_layer: Mapping[str, _ByLayer]
) -> tuple[_Slice, ...]:
    if definition.get("slices"):
        return tuple(
            _slice(f"slice {number}", piece, piece.get("base_model") or base, scopes, by_layer)
            for number, piece in enumerate(definition["slices"], start=1)
        )
    if not definition.get("models"):
        raise PlanError("A merge needs `models` or `slices`, and this one has neither.")
    entries = list(definition["models"])
    if base is not None and base not in [entry["model"] for entry in entries]:
        entries.append({"model": base})
    whole = [{**entry, "layer_range": [0, _count(entry["model"], by_layer)]} for entry in entries]
    return (_slice("the merge", {"sources": whole}, base, scopes, by_layer),)


def _count(source: str, by_layer: Mapping[str, _ByLayer]) -> int:
    if source not in by_layer:
        raise PlanError(f"The merge names the model {source!r}, which is not among its sources.")
    return len(by_layer[source].layers)


def _slice(
    place: str, piece: Mapping[str, Any], base: str | None, scopes: Scopes, by_layer: Mapping[str, _ByLayer]
) -> _Slice:
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
    return _Slice(parts, (piece.get("parameters") or {}, *scopes), base)


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
            piece.scopes,
            piece.base,
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
    return MergedTensor(name, 0.0, inputs, piece.scopes, piece.base)
