"""What must hold before anything is computed: models that fit each other, splits and training rows that share nothing.

Of models only configs, headers and tokenizers are read. Room on the disk and in memory is looked at as well: it may
change before it is needed, so that only a merge that comes next is refused for it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.checkpoints import open_checkpoint, open_source
from engine.data_rows import read_rows
from engine.errors import PlanError, StageError
from engine.exams import load_exams
from engine.executor import Merger
from engine.licences import licence_of, licence_warning
from engine.machine import available_memory, free_disk, size
from engine.plan import Plan, Stage
from engine.search.space import uniform_point, with_point
from engine.stages import labelled
from engine.store import Store
from engine.untrusted import refuse_code
from evaluators._types import Item

_MARGIN = 1.05  # for the tokenizer and what a file system adds
# Libraries, and chunks up to a bound that no size of model exceeds.
_LIBRARIES, _CHUNKS = 400_000_000, 1_100_000_000


def check(plan: Plan, store: Store, *, strict: bool) -> tuple[str, ...]:
    """Check models, data and room before a run; gives warnings about a merge that is still to be made.

    Raises:
        PlanError: As `check_models` and `check_data`.
        StageError: If `strict`, as `check_room`; else a warning, for a plan may be made on another machine.
    """
    checked = check_models(plan)
    check_data(plan)
    merge = next(stage for stage in plan.stages if stage.name == plan.result)
    if merge.key is not None and store.find(merge.key) is not None:
        return ()
    try:
        return checked.warnings + check_room(plan, store, checked)
    except StageError as error:
        if strict:
            raise
        return (*checked.warnings, str(error))


@dataclass(frozen=True)
class Checked:
    """What headers told of the merges whose models are all there: warnings, the bytes of their weights and sources."""

    warnings: tuple[str, ...] = ()
    merged_bytes: int = 0
    source_bytes: int = 0


def check_models(plan: Plan) -> Checked:
    """Open every model that is there, and lay out every merge whose models are all there.

    An adapter that the recipe itself trains is left out: it fits the base that it is trained on.

    Raises:
        PlanError: A folder that is no checkpoint or asks for code of its own, a file that is cut off, or sources that
            do not fit each other.
    """
    for stage in plan.stages:
        for role, node in stage.inputs.items():
            if node in plan.given:
                refuse_code(plan.given[node].path)
                if not role.endswith("+adapter"):
                    open_checkpoint(plan.given[node].path)
    merges = [stage for stage in plan.stages if stage.kind in ("merge", "search") and "merge" in stage.spec]
    each = [_check_merge(stage, plan) for stage in merges]
    return Checked(
        tuple(warning for checked in each for warning in checked.warnings),
        sum(checked.merged_bytes for checked in each),
        max((checked.source_bytes for checked in each), default=0),
    )


def _check_merge(stage: Stage, plan: Plan) -> Checked:
    models = {name: stage.inputs[name] for name in stage.labels}
    if any(node not in plan.given for node in models.values()):
        return Checked()
    places = {role: plan.given[node].path for role, node in stage.inputs.items() if node in plan.given}
    sources = {stage.labels[name]: open_source(places[name], places.get(f"{name}+adapter")) for name in models}
    config, first = stage.spec["merge"], next(iter(sources.values())).checkpoint.config
    filled = with_point(config, uniform_point(config), int(first.get("num_hidden_layers", 1)))
    merger = Merger(labelled(filled, stage.labels), sources, seed=plan.recipe.seed)
    licences = licence_warning({stage.labels[name]: licence_of(places[name]) for name in models})
    return Checked(
        (*merger.plan.warnings, *([licences] if licences else [])),
        sum(spec.nbytes for spec in merger.specs),
        sum(info.stop - info.start for source in sources.values() for info in source.checkpoint.tensors.values()),
    )


def check_room(plan: Plan, store: Store, checked: Checked) -> tuple[str, ...]:
    """Check that the disk has room for the merge, and memory for what will run; gives warnings.

    Raises:
        StageError: The merge comes next and its weights have no room.
    """
    if not checked.merged_bytes:
        return ()
    waiting = [stage.kind for stage in plan.stages if stage.key is None or store.find(stage.key) is None]
    warnings: list[str] = []
    needed, free = int(checked.merged_bytes * _MARGIN), free_disk(store.root)
    there = f"{store.root} has room for {size(free)}, and the merge takes {size(needed)}"
    if free < needed:
        if waiting[:1] == ["merge"]:
            raise StageError(f"{there}.", hint="Free some space, or choose another disk with --out.")
        warnings.append(f"{there}: free some space before it gets there.")
    elif free < 2 * needed:
        warnings.append(f"{there}, and as much again on a file system without hard links.")
    resident = checked.source_bytes + checked.merged_bytes if "search" in waiting else 0
    memory, left = _LIBRARIES + (resident or min(checked.merged_bytes, _CHUNKS)), available_memory()
    if left is not None and left < memory:
        what = "The search, which holds every source and a candidate," if resident else "The merge"
        warnings.append(f"{what} may need {size(memory)} of memory, and {size(left)} are available.")
    return tuple(warnings)


def check_data(plan: Plan) -> None:
    """Check that objective, select and test are disjoint, by id and by normalised text, and absent from training.

    Raises:
        PlanError: Items that stand in two splits or in the training data, with their ids; or data that cannot be read.
    """
    seen: dict[str, tuple[str, str]] = {}
    for split, item in _asked(plan):
        for mark in (f"id {item.id}", f"text {_normalised(item)}"):
            where, name = seen.setdefault(mark, (split, item.id))
            if where != split:
                raise PlanError(
                    f"The splits {where} and {split} share an item ({name} and {item.id}).",
                    hint="Use other years or files: what the search has seen must not test it.",
                )
    for stage, question in _taught(plan):
        known = seen.get(f"text {question}")
        if known is not None:
            raise PlanError(
                f"The training data of {stage} holds the question of the {known[0]} item {known[1]}.",
                hint="Take it out of the training data: a taught item measures memory.",
            )


def _asked(plan: Plan) -> Iterator[tuple[str, Item]]:
    for stage in plan.stages:
        for exam in load_exams(_evaluations(stage), stage.files):
            for item in exam.items:
                yield exam.split, item


def _evaluations(stage: Stage) -> list[Mapping[str, Any]]:
    if stage.kind == "evaluate":
        return list(stage.spec["evaluate"])
    if stage.kind == "search":
        return [*stage.spec["objective"], *(stage.spec["select"] or {"on": []})["on"]]
    return []


def _taught(plan: Plan) -> Iterator[tuple[str, str]]:
    for stage in plan.stages:
        if stage.kind != "prepare_data":
            continue
        try:
            rows = read_rows(stage.spec, [Path(stage.files[digest]) for digest in stage.spec["files"]])
        except StageError as error:
            raise PlanError(error.message, hint=error.hint) from error
        for row in rows:
            for turn in row["messages"]:
                if turn["role"] == "user":
                    yield stage.name, _squeezed(turn["content"])


def _normalised(item: Item) -> str:
    return _squeezed(item.question)


def _squeezed(text: str) -> str:
    """Fold width and case, and leave letters and digits alone."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(char for char in folded if char.isalnum())
