"""What a merged model is made of: its sources as exactly as they are pinned, the method, and what the weights are.

The run writes it as `lineage.json` beside the weights; `recipe show` and the card read it. Names and digests only, no
path of this machine: the file travels with the model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.checkpoints import open_checkpoint
from engine.licences import licence_of
from engine.models import Resolved
from engine.pin import Pins
from engine.plan import Plan, Stage
from engine.references import parse_reference
from engine.stages import labelled

LINEAGE = "lineage.json"
_LAYER_COUNTS = ("num_hidden_layers", "n_layer", "num_layers")


def lineage(plan: Plan, pins: Pins, merged: Path) -> dict[str, Any]:
    """Tell what a merge stage made its model of.

    Args:
        plan: The plan that was carried out.
        pins: What its names stand for.
        merged: The stored output of its merge stage.
    """
    final = next(stage for stage in plan.stages if stage.name == plan.result)
    record = json.loads((merged / "record.json").read_text(encoding="utf-8"))
    config = json.loads((merged / "merge.json").read_text(encoding="utf-8"))
    before = [stage for stage in plan.stages if stage.kind == "merge" and stage.name != plan.result]
    return {
        "name": plan.recipe.name,
        "seed": plan.recipe.seed,
        **_merge(plan, pins, final, config),
        "merges": [{"name": _section(stage), **_merge(plan, pins, stage, stage.spec["merge"])} for stage in before],
        "versions": record["versions"],
    }


def weights(folder: Path) -> dict[str, Any]:
    """Tell from its configuration and headers what a checkpoint is.

    Raises:
        PlanError: The folder is no whole checkpoint.
    """
    checkpoint = open_checkpoint(folder)
    config, infos = checkpoint.config, checkpoint.tensors.values()
    inner = config.get("text_config")
    text: Mapping[str, Any] = inner if isinstance(inner, dict) else config
    layers = next((text[key] for key in _LAYER_COUNTS if key in text), None)
    dtypes = dict.fromkeys(info.dtype for info in infos)
    return {
        "architecture": ", ".join(config.get("architectures") or [str(config.get("model_type", "unknown"))]),
        "layers": layers,
        "hidden_size": text.get("hidden_size", text.get("n_embd")),
        "vocabulary": text.get("vocab_size"),
        "tied": bool(config.get("tie_word_embeddings")),
        "tensors": len(infos),
        "parameters": sum(math.prod(info.shape) for info in infos),
        "bytes": sum(info.stop - info.start for info in infos),
        "dtypes": {dtype: sum(info.dtype == dtype for info in infos) for dtype in dtypes},
        "shards": len(dict.fromkeys(info.file for info in infos)),
    }


# ---- sources ---------------------------------------------------------------------------------------------------------


def _merge(plan: Plan, pins: Pins, stage: Stage, config: Mapping[str, Any]) -> dict[str, Any]:
    """Tell of one merge: its configuration with the names of its sources, and what these are."""
    merges = [entry["model"] for entry in _entries(config)]
    bases = [config.get("base_model"), *(piece.get("base_model") for piece in config.get("slices") or ())]
    names = _names(stage.labels)

    def source(number: str, name: str) -> dict[str, Any]:
        role = "base" if number in bases else "model" if number in merges else "tokenizer"
        adapter = _adapter(plan, pins, stage.inputs.get(f"{number}+adapter"))
        origin = _origin(plan, pins, stage.inputs[number])
        return {"name": name, "role": role, **origin, "adapter": adapter, **_part(config, number)}

    return {
        "merge": labelled(config, names),
        "sources": [source(number, name) for number, name in names.items()],
        "tokenizer": names.get(_tokenizer(config, merges), "union"),
    }


def _names(labels: Mapping[str, str]) -> dict[str, str]:
    """Name the sources for people anywhere: as the recipe does, but a local path by its last part alone."""
    found: dict[str, str] = {}
    for number, label in labels.items():
        whole = parse_reference(label)
        parts = [part for part in (replace(whole, adapter=None), whole.adapter) if part is not None]
        name = "+".join(Path(part.name).resolve().name if part.kind == "local" else str(part) for part in parts)
        found[number] = f"{name} ({number})" if name in found.values() else name
    return found


def _tokenizer(config: Mapping[str, Any], merges: Sequence[str]) -> str:
    """Give the number of the model whose tokenizer the result has; `union` where it has all of theirs."""
    asked = config.get("tokenizer_source") or (config.get("tokenizer") or {}).get("source")
    return str((config.get("base_model") or merges[0]) if asked in (None, "base") else asked)


def _entries(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Give every place of a configuration that names a model to merge."""
    for module in (config, *(config.get("modules") or {}).values()):
        yield from module.get("models") or ()
        for piece in module.get("slices") or ():
            yield from piece["sources"]


def _part(config: Mapping[str, Any], number: str) -> dict[str, Any]:
    """Give what the configuration says of one model: its own parameters and the layers that are taken from it."""
    entries = [entry for entry in _entries(config) if entry["model"] == number]
    ranges = ["[{}, {}]".format(*entry["layer_range"]) for entry in entries if "layer_range" in entry]
    own = [entry["parameters"] for entry in entries if entry.get("parameters")]
    return {"layers": list(dict.fromkeys(ranges)), "parameters": own[0] if len(own) == 1 else own or {}}


def _origin(plan: Plan, pins: Pins, node: str) -> dict[str, Any]:
    """Pin what fills a role of a merge: a model where it lies, one that a stage converted, or another merge."""
    stage = _stage(plan, node)
    if stage is not None and stage.kind == "merge":
        return {"pinned": f"the merge {_section(stage)} of this recipe", "licence": None}
    for reference, resolved in pins.models.items():
        if resolved is not None and (str(reference) == node or _converts(stage, resolved)):
            return {"pinned": _pinned(resolved), "licence": licence_of(resolved.path)}
    raise LookupError(node)


def _adapter(plan: Plan, pins: Pins, node: str | None) -> str | None:
    """Say which adapter rides on a source: a fine-tune of this recipe, or a pinned one."""
    if node is None:
        return None
    stage = _stage(plan, node)
    if stage is None:
        return str(_origin(plan, pins, node)["pinned"])
    return f"LoRA fine-tune of this recipe, rank {stage.spec['lora']['r']}"


def _stage(plan: Plan, name: str) -> Stage | None:
    return next((stage for stage in plan.stages if stage.name == name), None)


def _section(stage: Stage) -> str:
    return stage.name.removeprefix(f"{stage.kind} ")


def _converts(stage: Stage | None, resolved: Resolved) -> bool:
    return stage is not None and stage.spec.get("gguf") == resolved.identity


def _pinned(resolved: Resolved) -> str:
    """Write a source as exactly as it is known; of a local path only the digest, for the path stays at home."""
    exact = resolved.exact
    return f"sha256:{resolved.identity['sha256']}" if exact.kind == "local" else str(exact)
