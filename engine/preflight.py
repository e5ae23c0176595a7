"""What must hold before anything is computed: models that fit each other, splits and training rows that share nothing.

Of models only configs, headers and tokenizers are read.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from engine.checkpoints import open_checkpoint, open_source
from engine.data_rows import read_rows
from engine.errors import PlanError, StageError
from engine.exams import load_exams
from engine.executor import Merger
from engine.plan import Plan, Stage
from engine.search.space import uniform_point, with_point
from engine.stages import labelled
from evaluators._types import Item


def check_models(plan: Plan) -> None:
    """Open every model that is there, and lay out the merge if all of its models are.

    An adapter that the recipe itself trains is left out: it fits the base that it is trained on.

    Raises:
        PlanError: A folder that is no checkpoint, a file that is cut off, or sources that do not fit each other.
    """
    for stage in plan.stages:
        for role, node in stage.inputs.items():
            if node in plan.given and not role.endswith("+adapter"):
                open_checkpoint(plan.given[node].path)
    config = next((stage.spec["merge"] for stage in plan.stages if "merge" in stage.spec), None)
    merge = next(stage for stage in plan.stages if stage.kind == "merge")
    models = {role: node for role, node in merge.inputs.items() if "+" not in role and role != "search"}
    if config is None or any(node not in plan.given for node in models.values()):
        return
    places = {role: plan.given[node].path for role, node in merge.inputs.items() if node in plan.given}
    sources = {merge.labels[name]: open_source(places[name], places.get(f"{name}+adapter")) for name in models}
    layers = int(next(iter(sources.values())).checkpoint.config["num_hidden_layers"])
    filled = with_point(config, uniform_point(config), layers)
    Merger(labelled(filled, merge.labels), sources, seed=plan.recipe.seed)


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
