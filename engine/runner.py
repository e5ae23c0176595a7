"""Carry a plan out: skip what is stored, run the rest, stop at the first failure."""

from __future__ import annotations

import errno
import os
import platform
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from engine.errors import RecipeEngineError, StageError
from engine.events import Emit, Event
from engine.plan import Plan, Stage
from engine.stages import Work
from engine.store import Store

_RECORDED = ("chogo", "torch", "transformers", "peft", "trl", "optuna", "safetensors")
_MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Status:
    """Whether a stage is stored, and if not, why it will run."""

    stage: Stage
    stored: bool
    reason: str = ""


def status(plan: Plan, store: Store) -> tuple[Status, ...]:
    """Tell for every stage of a plan whether it is stored."""
    found: dict[str, Status] = {}
    for stage in plan.stages:
        found[stage.name] = _status(stage, found, store)
    return tuple(found.values())


def run(plan: Plan, store: Store, emit: Emit) -> dict[str, Path]:
    """Run what is not stored, in order, and give the folder of every stage and model.

    Raises:
        StageError, PlanError, StoreError: From the first stage that fails; what was finished stays.
    """
    _quiet_libraries()
    folders = {name: given.path for name, given in plan.given.items()}
    for number, stage in enumerate(plan.stages, start=1):
        data = {"number": number, "of": len(plan.stages)}
        assert stage.key is not None  # noqa: S101 - a plan that runs was pinned
        found = store.find(stage.key)
        if found is not None:
            emit(Event("stage_reused", stage.name, data))
        else:
            found = _run_stage(stage, plan, store, folders, _named(emit, stage.name, data))
        folders[stage.name] = found
    return folders


def _named(emit: Emit, stage: str, data: Mapping[str, Any]) -> Emit:
    """Put the stage's name on what it says; its start carries its place in the plan."""

    def named(event: Event) -> None:
        body = {**event.data, **data} if event.name == "stage_started" else event.data
        emit(Event(event.name, stage, body))

    return named


def _run_stage(stage: Stage, plan: Plan, store: Store, folders: Mapping[str, Path], emit: Emit) -> Path:
    key, scratch = str(stage.key), str(stage.scratch)
    with store.lock(key):
        # Another process may have finished it while this one was on its way here.
        found = store.find(key)
        if found is not None:
            emit(Event("stage_reused"))
            return found
        emit(Event("stage_started"))
        started = time.monotonic()
        about = {"kind": stage.kind, "spec": stage.spec, "versions": _versions()}
        try:
            with store.write(key, about) as output:
                inputs = {role: folders[node] for role, node in stage.inputs.items()}
                place = store.scratch(scratch)
                work = Work(stage.spec, plan.recipe.seed, inputs, stage.files, stage.labels, output, place, emit)
                import_module(f"engine.stages.{stage.kind}").run(work)
        except OSError as error:
            raise _explained(error, stage, store) from error
        except MemoryError as error:
            raise StageError(
                f"{stage.name} ran out of memory.",
                hint="Lower per_device_train_batch_size or max_length, or free memory.",
            ) from error
        store.drop_scratch(scratch)
        emit(Event("stage_finished", data={"seconds": round(time.monotonic() - started, 1)}))
    return store.output(key)


def _explained(error: OSError, stage: Stage, store: Store) -> RecipeEngineError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(store.root).free // _MEBIBYTE
        return StageError(
            f"{stage.name}: the disk of {store.root} is full ({free} MiB are free). What was finished is kept.",
            hint="Free some space, then run the same command again.",
        )
    return StageError(f"{stage.name}: {error}", hint="Mend the cause, then run the same command again.")


def _status(stage: Stage, before: Mapping[str, Status], store: Store) -> Status:
    if stage.key is None:
        waits = [node for node in stage.inputs.values() if node in before]
        why = f"because {waits[0]} will run" if waits else "because its model is not fetched yet"
        return Status(stage, stored=False, reason=why)
    if store.find(stage.key) is not None:
        return Status(stage, stored=True)
    running = [node for node in stage.inputs.values() if node in before and not before[node].stored]
    if running:
        return Status(stage, stored=False, reason=f"because {running[0]} will run")
    if (store.root / "scratch" / str(stage.scratch)[:32]).is_dir():
        return Status(stage, stored=False, reason="because it was begun and not finished: it goes on")
    return Status(stage, stored=False, reason="because nothing stored has its inputs and settings")


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _RECORDED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _quiet_libraries() -> None:
    """Stages ask no network and draw nothing: the libraries read these when they are imported."""
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS"):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TQDM_DISABLE", "1")
