"""Adapters of one base as one adapter: exactly, by laying their factors side by side, or re-compressed to a rank.

sum_i w_i s_i B_i A_i = [w_1 s_1 B_1, w_2 s_2 B_2, …] [A_1; A_2; …]: weights and scalings go into B, which can carry a
negative weight, in one rounding, and A is kept bit for bit. (PEFT's `add_weighted_adapter` adds the factors instead
where it is asked for `linear`, which is another update.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.checkpoints import Adapter, AdapterModule, open_adapter, open_checkpoint, read_adapter, write_adapter
from engine.errors import PlanError, StageError
from engine.events import Emit, Event, ignore
from engine.lora._lowrank import norm_of_product, recompress
from engine.lora._output import new_folder
from engine.lora._report import Approximation
from engine.references import parse_reference

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor


@dataclass(frozen=True)
class Part:
    """An adapter folder and the weight of its update."""

    folder: Path
    weight: float = 1.0


def combine_adapters(
    out: Path, parts: Sequence[Part], *, rank: int | None = None, base: Path | None = None, emit: Emit = ignore
) -> tuple[Approximation, ...]:
    """Write the weighted sum of adapters as a new adapter folder, one module at a time.

    Ranks, alphas, `use_rslora` and target modules may differ; a module that an adapter lacks has no part of it.

    Args:
        out: a folder that does not exist yet.
        parts: the adapters, in the order of their ranks in the result.
        rank: modules of a larger rank are re-compressed to it; None keeps the sum exact, with the sum of the ranks.
        base: their checkpoint, to check them against; needed where PEFT saved copies of its embeddings along.
        emit: hears of `warning` and `progress`.

    Returns:
        Every module with what re-compression has lost of it.

    Raises:
        PlanError: a weight of 0, no plain LoRA, adapters of different bases, or `out` is there already.
        StageError: values that are not finite, or a sum that is zero.
    """
    _check(parts, rank)
    adapters = [_open(part.folder, base) for part in parts]
    sums = _sums(adapters, parts)
    modules = [_module(name, terms, rank) for name, terms in sums.items()]
    _warn(adapters, emit)
    found: list[Approximation] = []

    def factors(module: str) -> tuple[Tensor, Tensor]:
        b, a, one = _combined(module, sums[module], rank)
        found.append(one)
        emit(Event("progress", "combine", {"done": len(found), "total": len(modules), "unit": "modules"}))
        return b, a

    with new_folder(out) as folder:
        write_adapter(folder, modules, factors, _settings(adapters, modules))
        if not any(one.norm for one in found):
            raise StageError("The adapters cancel each other: their weighted sum changes nothing.")
    return tuple(found)


@dataclass(frozen=True)
class _Term:
    adapter: Adapter
    tensor: str
    weight: float


def _check(parts: Sequence[Part], rank: int | None) -> None:
    if not parts:
        raise PlanError("There are no adapters to combine.")
    if rank is not None and rank < 1:
        raise PlanError(f"An adapter cannot have rank {rank}.")
    for part in parts:
        if not math.isfinite(part.weight) or part.weight == 0:
            raise PlanError(
                f"The adapter {part.folder} has the weight {part.weight}.",
                hint="Give a number that is not zero, or leave the adapter out.",
            )


def _open(folder: Path, base: Path | None) -> Adapter:
    if base is not None:
        return open_adapter(folder, open_checkpoint(base).tensors)
    adapter = read_adapter(folder)
    if adapter.others:
        raise PlanError(
            f"The adapter {folder} holds {adapter.others[0].name}, which is no pair of LoRA matrices.",
            hint="If it is PEFT's copy of the base's embeddings, name the base (`--base`), so that it can be checked.",
        )
    return adapter


def _sums(adapters: Sequence[Adapter], parts: Sequence[Part]) -> dict[str, list[_Term]]:
    """Collect for each module, in the order of the files, what its update is the sum of."""
    sums: dict[str, list[_Term]] = {}
    for adapter, part in zip(adapters, parts, strict=True):
        for tensor, update in adapter.updates.items():
            terms = sums.setdefault(tensor.removesuffix(".weight"), [])
            first = terms[0].adapter if terms else adapter
            known = first.updates[tensor]
            if (known.shape, known.transposed) != (update.shape, update.transposed):
                raise PlanError(
                    f"The adapters {first.folder} and {adapter.folder} are not of one base: their updates of {tensor} "
                    f"have the shapes {list(known.shape)} and {list(update.shape)}.",
                    hint="Only adapters of one base can be combined.",
                )
            terms.append(_Term(adapter, tensor, part.weight))
    return sums


def _module(name: str, terms: Sequence[_Term], rank: int | None) -> AdapterModule:
    first = terms[0].adapter.updates[terms[0].tensor]
    rows, columns = first.b.shape[0], first.a.shape[1]
    total = sum(term.adapter.updates[term.tensor].rank for term in terms)
    kept = total if rank is None or total <= rank else min(rank, rows, columns)
    return AdapterModule(name, kept, rows, columns, embedding=first.transposed)


def _combined(module: str, terms: Sequence[_Term], rank: int | None) -> tuple[Tensor, Tensor, Approximation]:
    import torch

    lefts, rights = [], []
    for term in terms:
        b, a = term.adapter.factors(term.tensor)
        if not (b.isfinite().all() and a.isfinite().all()):
            raise StageError(
                f"The adapter {term.adapter.folder} has NaN or infinite values in {module}.",
                hint="It is damaged or its training diverged: leave it out, or download it again.",
            )
        # In float64 the two numbers make one factor, and B is rounded once.
        lefts.append(b.double() * (term.weight * term.adapter.updates[term.tensor].scaling))
        rights.append(a.float())
    b, a = torch.cat(lefts, dim=1), torch.cat(rights)
    if rank is None or len(a) <= rank:
        return b.float(), a, Approximation(module, len(a), norm_of_product(b, a), 0.0)
    small = recompress(b, a, rank)
    return small.b, small.a, Approximation(module, len(small.a), small.norm, small.residual)


def _settings(adapters: Sequence[Adapter], modules: Sequence[AdapterModule]) -> dict[str, Any]:
    settings = [adapter.config.settings for adapter in adapters]
    names = {(one.get("base_model_name_or_path"), one.get("revision")) for one in settings}
    tasks = {one.get("task_type") for one in settings}
    found: dict[str, Any] = {"target_modules": _target_modules(settings, modules)}
    if len(names) == 1 and _is_hub_name(settings[0].get("base_model_name_or_path")):
        found["base_model_name_or_path"], found["revision"] = names.pop()
    return {**found, "task_type": tasks.pop()} if len(tasks) == 1 else found


def _target_modules(settings: Sequence[Mapping[str, Any]], modules: Sequence[AdapterModule]) -> list[str]:
    """Unite lists of names, each of which means the modules of its own adapter; else name every module in full."""
    lists = [one.get("target_modules") for one in settings]
    narrowed = any(one.get(key) for one in settings for key in ("layers_to_transform", "exclude_modules"))
    if narrowed or not all(isinstance(one, list) for one in lists):
        return sorted(module.name for module in modules)
    return sorted({name for names in lists for name in names or ()})


def _warn(adapters: Sequence[Adapter], emit: Emit) -> None:
    named = dict.fromkeys(adapter.config.settings.get("base_model_name_or_path") for adapter in adapters)
    names = [str(name) for name in named if name]
    if len(names) > 1:
        text = f"The adapters name different bases ({', '.join(names)}); their sum is meant for one and the same."
        emit(Event("warning", data={"message": text}))


def _is_hub_name(name: object) -> bool:
    """Tell a repository of the Hub from a path of this machine, which is nobody's business."""
    try:
        return isinstance(name, str) and parse_reference(name).kind == "hub"
    except ValueError:
        return False
