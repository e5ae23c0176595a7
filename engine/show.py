"""What `recipe show` tells of a run, of a published model folder, or of any checkpoint; imports no torch."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import PinError, RecipeError
from engine.files import sha256_of
from engine.lineage import LINEAGE, weights
from engine.yaml_source import read_source

if TYPE_CHECKING:
    from collections.abc import Iterator

_MODEL, _LOCK, _SUMS, _MERGEKIT = "model", "recipe.lock.yaml", "SHA256SUMS", "mergekit_config.yml"


def show(place: Path, runs: Path) -> dict[str, Any]:
    """Describe a run directory, its `model` folder, or a checkpoint of any origin.

    Args:
        place: The folder, or the name of a run.
        runs: The folder of run directories, where a name is looked up.

    Returns:
        JSON values: `name`, `folder`, `weights`, `files`; `lineage` where Chogo made it, else `merge` where mergekit
        did; `scores` and `made` where the run directory is there; `chat_template`.

    Raises:
        PinError: There is nothing of that name, or nothing that is finished.
        PlanError: The folder is no whole checkpoint.
    """
    model, run = _located(place, runs)
    lineage = _json(model / LINEAGE)
    if not (isinstance(lineage, dict) and {"merge", "sources", "versions", "seed"} <= lineage.keys()):
        lineage = None
    facts: dict[str, Any] = {"name": (lineage or {}).get("name") or (run or model).resolve().name, "folder": str(model)}
    facts["weights"] = weights(model)
    facts["lineage"] = lineage
    facts["merge"] = _mergekit(model) if lineage is None else None
    facts["chat_template"] = _chat_template(model)
    facts["files"] = list(_files(model))
    facts["scores"] = None if run is None else _json(run / "scores.json")
    facts["made"] = None if run is None else _made(run)
    return facts


# ---- finding ---------------------------------------------------------------------------------------------------------


def _located(place: Path, runs: Path) -> tuple[Path, Path | None]:
    """Find the folder of the weights, and the run directory around it if there is one."""
    folder = next((one for one in (place, runs / place) if one.is_dir()), None)
    if folder is None:
        raise _nowhere(place, runs)
    if (folder / _MODEL / "config.json").is_file():
        return folder / _MODEL, folder
    if (folder / "config.json").is_file():
        around = folder.resolve().parent
        return folder, around if folder.resolve().name == _MODEL and (around / _LOCK).is_file() else None
    if (folder / "recipe.yaml").is_file() or (folder / "events.jsonl").is_file():
        raise PinError(
            f"{folder} has no model yet: its run has not finished.", hint="Run its recipe again: it goes on."
        )
    names = _names(folder)
    raise PinError(
        f"{folder} holds no model: there is neither a config.json nor model/config.json in it.",
        hint=f"It holds {', '.join(names)}: name one of them." if names else "Name a run or a model folder.",
    )


def _nowhere(place: Path, runs: Path) -> PinError:
    near = [
        str(parent / name)
        for parent in dict.fromkeys((place.parent, runs))
        for name in difflib.get_close_matches(place.name, _names(parent), n=1)
    ]
    if near:
        return PinError(f"There is no model at {place}.", hint=f"Did you mean {near[0]}?")
    names = _names(runs)
    listed = f"{runs} holds {', '.join(names)}." if names else f"{runs} holds no run yet: `recipe run FILE` makes one."
    return PinError(f"There is no model at {place}.", hint=listed)


def _names(folder: Path) -> list[str]:
    """List the runs and checkpoints in a folder."""
    if not folder.is_dir():
        return []
    return sorted(
        one.name
        for one in folder.iterdir()
        if (one / "config.json").is_file() or (one / _MODEL / "config.json").is_file()
    )


# ---- reading ---------------------------------------------------------------------------------------------------------


def _json(path: Path) -> Any:  # noqa: ANN401 - JSON
    """Read a JSON file; None where it is missing or damaged, which is no reason to show nothing."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _mergekit(model: Path) -> Any:  # noqa: ANN401 - a configuration
    """Read the configuration that mergekit leaves beside its weights."""
    path = model / _MERGEKIT
    try:
        return read_source(path).data if path.is_file() else None
    except RecipeError:
        return None


def _chat_template(model: Path) -> dict[str, str] | None:
    """Say where the chat template stands, and its digest where it is a file of its own."""
    for name in ("chat_template.jinja", "chat_template.json"):
        if (model / name).is_file():
            return {"file": name, "sha256": sha256_of(model / name)}
    settings = _json(model / "tokenizer_config.json")
    return {"file": "tokenizer_config.json"} if isinstance(settings, dict) and settings.get("chat_template") else None


def _files(model: Path) -> Iterator[dict[str, Any]]:
    """List the files with their sizes, and with the digests of SHA256SUMS where it has them."""
    path = model / _SUMS
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    for file in sorted(one for one in model.iterdir() if one.is_file() and one.name != _SUMS):
        yield {"name": file.name, "bytes": file.stat().st_size, "sha256": sums.get(file.name)}


def _made(run: Path) -> dict[str, Any] | None:
    """Find in the event log when the merge was made, and in how many seconds."""
    path = run / "events.jsonl"
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    for line in reversed(lines):
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if event.get("event") == "stage_finished" and str(event.get("stage", "")).startswith("merge "):
            return {"at": event.get("at"), "seconds": event.get("seconds")}
    return None
