"""A pinned recipe becomes ordered stages. The graph is written here and nowhere else.

A stage's key is the sha256 over canonical JSON of its kind, version, seed, spec and the keys of its inputs: a Merkle
graph. Names, paths, devices and package versions stay out, so renaming a model or moving a folder computes nothing
again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import evaluators
from engine import merging
from engine.errors import PlanError
from engine.pin import Pins, data_files, evaluations
from engine.recipe import Recipe, as_data
from engine.references import ModelReference
from engine.search.space import uniform_point

# Raised by hand when a stage's code changes its results.
VERSIONS = {"base": 1, "prepare_data": 1, "sft": 2, "search": 1, "merge": 1, "evaluate": 1}
# The one setting that asks for more of the same work: the scratch goes by the others, so that the work goes on.
EXTENDING = "n_trials"
_SAMPLERS = ("tpe", "random")
_SCORINGS = ("letter", "option_text")


@dataclass(frozen=True)
class Given:
    """A model that is used where it lies."""

    key: str
    path: Path


@dataclass(frozen=True)
class Stage:
    """A unit of work.

    `inputs` maps a role to the stage or given model that fills it; a key is None while a model is not fetched. `files`
    and `labels` (where things lie, what people call them) are no part of the key.
    """

    name: str
    kind: str
    spec: Mapping[str, Any]
    inputs: Mapping[str, str]
    key: str | None
    scratch: str | None
    files: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """The stages of a recipe in the order in which they run."""

    recipe: Recipe
    stages: tuple[Stage, ...]
    given: Mapping[str, Given]


def make_plan(recipe: Recipe, pins: Pins) -> Plan:
    """Lay a pinned recipe out as stages.

    Raises:
        PlanError: A part that is not built yet, or parts that do not fit together.
    """
    _refuse_unbuilt(recipe)
    return _Builder(recipe, pins).build()


@dataclass(frozen=True)
class _Model:
    """A model in use: the node that holds its weights and, if there is one, the node of its adapter."""

    label: str
    source: str
    adapter: str | None = None


class _Builder:
    """Collects the nodes of one recipe."""

    def __init__(self, recipe: Recipe, pins: Pins) -> None:
        self._recipe = recipe
        self._pins = pins
        self._stages: dict[str, Stage] = {}
        self._given: dict[str, Given] = {}
        # Models are numbered in the order in which the merge names them: names stay out of the keys.
        self._used: dict[_Model, str] = {}

    def build(self) -> Plan:
        recipe = self._recipe
        for name in recipe.sft:
            self._model(ModelReference("section", name))
        if recipe.merge is None and not recipe.sft:
            raise PlanError(
                f"The recipe {recipe.name} makes no model.", hint="Give it an `sft` section, a `merge` section or both."
            )
        config = self._merge_config()
        if recipe.search is not None:
            self._search(config)
        self._merge(config)
        if recipe.evaluate:
            self._evaluate(config)
        return Plan(recipe, tuple(self._stages.values()), self._given)

    # ---- models ----

    def _model(self, reference: ModelReference, label: str | None = None) -> _Model:
        """Resolve a reference to nodes, adding the stages that make it."""
        if reference.adapter is not None:
            source = self._model(ModelReference(**{**reference.__dict__, "adapter": None}))
            if source.adapter is not None:
                raise PlanError(f"not built yet: an adapter on an adapter ({reference}).")
            adapter = self._adapter(reference.adapter)
            return _Model(label or _said(reference), source.source, adapter)
        if reference.kind != "section":
            return _Model(label or _said(reference), self._source(reference, label or _said(reference)))
        name = reference.name
        if name in self._recipe.sft:
            return self._sft(name)
        return self._model(self._recipe.models[name], label or name)

    def _adapter(self, reference: ModelReference) -> str:
        if reference.kind == "section" and reference.name in self._recipe.sft:
            return f"sft {reference.name}"
        return self._model(reference).source

    def _source(self, reference: ModelReference, label: str) -> str:
        """Use a folder where it lies; convert a GGUF file once."""
        resolved = self._pins.models[reference]
        path = None if resolved is None else resolved.path
        gguf = str(reference.path or reference.name).endswith(".gguf")
        if not gguf and path is not None and path.is_file():
            raise PlanError(f"{path} is a file, not a model folder.", hint="Name the folder, or a .gguf file.")
        if gguf:
            identity = None if resolved is None else resolved.identity
            return self._add("base", label, {"gguf": identity}, {}, files={} if path is None else {"gguf": str(path)})
        name = str(reference)
        if resolved is None:
            raise PlanError(
                f"{reference} is not on this machine yet.", hint="`recipe run` fetches it; a plan asks no network."
            )
        self._given[name] = Given(_digest({"kind": "model", **resolved.identity}), resolved.path)
        return name

    def _sft(self, name: str) -> _Model:
        section = self._recipe.sft[name]
        base = self._model(section.base_model)
        if base.adapter is not None:
            raise PlanError(
                f"not built yet: sft.{name} trains on sft.{base.label}, an adapter on an adapter.",
                hint="Train both on the same base and merge them.",
            )
        dataset = section.dataset
        data_spec, files = self._data(dataset.model_dump(mode="json", exclude={"path", "sha256"}), dataset.path)
        data = self._add("prepare_data", name, data_spec, {}, files=files)
        spec = section.model_dump(mode="json", include={"lora", "quantization", "training"})
        adapter = self._add("sft", name, spec, {"base": base.source, "data": data}, seeded=True)
        return _Model(name, base.source, adapter)

    def _data(self, spec: dict[str, Any], paths: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, str]]:
        """Put digests in the place of paths."""
        flat = data_files([self._pins.paths[text] for text in paths])
        files = {self._pins.files[file]: str(file) for file in flat}
        # Every file has its place, also one that repeats another.
        return {**spec, "files": [self._pins.files[file] for file in flat]}, files

    # ---- the merge and what hangs on it ----

    def _use(self, reference: ModelReference) -> str:
        model = self._model(reference)
        return self._used.setdefault(model, f"m{len(self._used)}")

    def _merge_config(self) -> dict[str, Any]:
        """Give the mergekit configuration with models by number; without one, the last fine-tune as it is."""
        merge = self._recipe.merge
        if merge is None:
            section = list(self._recipe.sft)[-1]
            self._use(self._recipe.sft[section].base_model)
            model = self._use(ModelReference("section", section))
            return {"merge_method": "passthrough", "models": [{"model": model}], "dtype": "bfloat16"}
        config: dict[str, Any] = self._numbered(as_data(merge.model_copy(update={"name": None}), defaults=True))
        merging.load(merge.merge_method)
        return config

    def _numbered(self, node: Any, key: str = "") -> Any:  # noqa: ANN401 - any part of a configuration
        if isinstance(node, ModelReference):
            words = node.kind == "section" and key == "tokenizer_source" and node.name in ("base", "union")
            return node.name if words else self._use(node)
        if isinstance(node, Mapping):
            # The base first, so that it is m0 wherever it stands in the file.
            ordered = sorted(node, key=lambda name: name != "base_model")
            numbered = {name: self._numbered(node[name], name) for name in ordered}
            return {name: numbered[name] for name in node}
        return [self._numbered(one) for one in node] if isinstance(node, list | tuple) else node

    def _model_inputs(self) -> dict[str, str]:
        inputs: dict[str, str] = {}
        for model, number in self._used.items():
            inputs[number] = model.source
            if model.adapter is not None:
                inputs[f"{number}+adapter"] = model.adapter
        return inputs

    def _labels(self) -> dict[str, str]:
        return {number: model.label for model, number in self._used.items()}

    def _search(self, config: Mapping[str, Any]) -> None:
        search = self._recipe.search
        assert search is not None  # noqa: S101 - the caller looked
        objective, files = self._evaluations(search.objective)
        select, more = self._evaluations(search.select.on if search.select else ())
        spec = {
            "merge": config,
            "sampler": search.sampler,
            "n_trials": search.n_trials,
            "sampler_seed": search.seed,
            "objective": objective,
            "select": {"top": search.select.top, "on": select} if search.select else None,
            "warm_start": search.warm_start,
            "systems": self._systems(config),
        }
        self._add("search", self._recipe.name, spec, self._model_inputs(), files=files | more, seeded=True)

    def _merge(self, config: Mapping[str, Any]) -> None:
        name = self._recipe.name
        inputs = self._model_inputs()
        if self._recipe.search is not None:
            self._add("merge", name, {}, {**inputs, "search": f"search {name}"}, seeded=True)
        else:
            self._add("merge", name, {"merge": config}, inputs, seeded=True)

    def _evaluate(self, config: Mapping[str, Any]) -> None:
        name = self._recipe.name
        spec, files = self._evaluations(self._recipe.evaluate)
        inputs = {**self._model_inputs(), "winner": f"merge {name}"}
        body = {"evaluate": spec, "merge": config, "systems": self._systems(config)}
        self._add("evaluate", name, body, inputs, files=files, seeded=True)

    def _systems(self, config: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Give what stands beside the winner: the base, every parent, and the uniform merge where there is a search."""
        merge = self._recipe.merge
        numbers = list(self._used.values())
        base = config.get("base_model") if merge is not None else numbers[0]
        systems = [{"role": "base", "model": base}] if base is not None else []
        if merge is not None:
            systems += [{"role": "parent", "model": number} for number in numbers if number != base]
        if self._recipe.search is not None:
            systems.append({"role": "baseline", "model": "uniform", "point": uniform_point(config)})
        return systems

    def _evaluations(self, listed: tuple[Any, ...]) -> tuple[list[dict[str, Any]], dict[str, str]]:
        specs: list[dict[str, Any]] = []
        files: dict[str, str] = {}
        for one in listed:
            spec, found = self._data(one.model_dump(mode="json", exclude={"path", "sha256"}), one.path or ())
            spec = {**spec, "scoring": one.scoring or _SCORINGS[one.evaluator == "fact_table"]}
            specs.append({name: value for name, value in spec.items() if value is not None})
            files |= found
        return specs, files

    def _add(
        self,
        kind: str,
        label: str,
        spec: Mapping[str, Any],
        inputs: Mapping[str, str],
        *,
        files: Mapping[str, str] | None = None,
        seeded: bool = False,
    ) -> str:
        """Add a stage and give its name. Equal work under two names is one stage."""
        name = f"{kind} {label}"
        known = {node: stage.key for node, stage in self._stages.items()}
        known |= {node: given.key for node, given in self._given.items()}
        keys = {role: known[node] for role, node in inputs.items()}
        missing = None in keys.values() or (None in spec.values() and kind == "base")
        body = {"kind": kind, "version": VERSIONS[kind], "inputs": keys, "seed": self._recipe.seed if seeded else None}
        extends = {key: value for key, value in spec.items() if key != EXTENDING}
        labels = self._labels() if kind in ("search", "merge", "evaluate") else {}
        stage = Stage(
            name,
            kind,
            spec,
            inputs,
            None if missing else _digest({**body, "spec": spec}),
            None if missing else _digest({**body, "spec": extends, "scratch": True}),
            files or {},
            labels,
        )
        twin = next((one for one in self._stages.values() if one.key is not None and one.key == stage.key), None)
        if twin is not None:
            return twin.name
        self._stages[name] = stage
        return name


def _said(reference: ModelReference) -> str:
    """Name a model as a person would: without its digest, which a lock writes behind it."""
    adapter = None if reference.adapter is None else replace(reference.adapter, sha256=None)
    return str(replace(reference, sha256=None, adapter=adapter))


def _digest(value: Any) -> str:  # noqa: ANN401 - JSON
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _refuse_unbuilt(recipe: Recipe) -> None:
    """Answer for the parts of the language that this version parses and does not carry out."""
    unbuilt = [f"pretrain.{name}" for name in recipe.pretrain]
    for name, section in recipe.sft.items():
        unbuilt += [f"sft.{name}.quantization: nf4"] if section.quantization != "none" else []
        unbuilt += [f"sft.{name}.dataset.format: text"] if section.dataset.format == "text" else []
    if recipe.merge is not None:
        unbuilt += [f"merge.{key}" for key in ("modules", "tokenizer", "chat_template") if getattr(recipe.merge, key)]
    if recipe.search is not None:
        unbuilt += [f"search.sampler: {recipe.search.sampler}"] if recipe.search.sampler not in _SAMPLERS else []
        unbuilt += [f"search.{key}" for key in ("constraints", "initial") if getattr(recipe.search, key)]
    for one in evaluations(recipe):
        unbuilt += [f"the evaluator {one.evaluator}"] if one.evaluator not in evaluators.names() else []
        unbuilt += [f"scoring: {one.scoring}"] if one.scoring not in (None, *_SCORINGS) else []
    unbuilt += ["publish"] if recipe.publish is not None else []
    if unbuilt:
        listed = "\n".join(f"  {part}" for part in dict.fromkeys(unbuilt))
        raise PlanError(
            f"not built yet in this version:\n{listed}", hint="Take these parts out of the recipe to run the rest."
        )
