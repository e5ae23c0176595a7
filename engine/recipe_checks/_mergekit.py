"""A plain mergekit configuration, read as the `merge` of a recipe: what mergekit ignores is a warning here.

A file of several documents, which mergekit-multi runs, becomes `merges` and `merge`: the document without a name is the
result, or else the last one that no other uses.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from engine.recipe_checks._find import merges
from engine.recipe_checks._mergekit_values import in_our_terms, model_names
from engine.recipe_checks._prose import unknown_keys
from engine.recipe_checks._unread import TOLERATED, unread

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from engine.errors import Problem
    from engine.recipe_checks._find import Finding
    from engine.yaml_nodes import Place
    from engine.yaml_source import Path, Source

_ONLY_IN_RECIPES = ("seed", "pretrain", "sft", "merges", "merge", "search", "evaluate", "publish")
_WORDS = ("base", "union")
# What mergekit's own models know and nothing of mergekit reads.
_READ_BY_NOTHING = ("residual_weight",)


def wrap_mergekit(source: Source, merge: type[BaseModel]) -> Source:
    """Make a recipe of a plain mergekit configuration: its name is the file's, `merge` (the model) its section.

    Returns:
        The recipe's source, without the keys that mergekit would ignore, and with a warning for each of these.
    """
    documents, problems = _merges_of(source)
    given = [_name(one) for one in documents]
    stem = _safe(FilePath(source.file).stem) or "merge"
    names = _section_names([name for name in given if name is not None], taken=(stem, *_WORDS))
    read = [in_our_terms(one, names if source.others else None) for one in documents]
    last = _result(read, given, names)
    places: list[tuple[Path, Source]] = []
    for index, (one, name) in enumerate(zip(read, given, strict=True)):
        if source.others:
            one.data.pop("name", None)
        places.append((("merge",) if index == last else ("merges", names[str(name)]), one))
    return _without_unread(_joined(replace(source, problems=tuple(problems)), stem, places), merge)


def _merges_of(source: Source) -> tuple[list[Source], list[Problem]]:
    """Give the documents that are merges, without the keys that belong to a recipe, and what else is wrong."""
    found: list[Source] = []
    problems: list[Problem] = []
    seen: dict[str | None, Source] = {}
    for one in (source, *source.others):
        first = seen.setdefault(_name(one), one) if one.is_mergekit else None
        if first is one:
            misplaced = [key for key in _ONLY_IN_RECIPES if key in one.data]
            problems += [_misplaced(one, key) for key in misplaced]
            found.append(replace(one, data={key: value for key, value in one.data.items() if key not in misplaced}))
            continue
        problems += one.problems
        if first is not None:
            problems.append(_same_name(first, one))
        elif one.data is not None and not one.unreadable:
            hint = "Each document of a mergekit file is a merge."
            problems.append(one.problem((), "this document lacks `merge_method`", hint=hint))
    return found, problems


def _misplaced(document: Source, key: str) -> Problem:
    message = f"`{key}` belongs to a recipe, and a top-level `merge_method` makes this a mergekit configuration"
    hint = "Put the mergekit configuration under `merge:` and add a `name:`."
    return document.problem((key,), message, hint=hint, at_key=True)


def _name(document: Source) -> str | None:
    name = document.data.get("name")
    return None if name is None or isinstance(name, dict | list) else str(name)


def _same_name(first: Source, second: Source) -> Problem:
    name = _name(second)
    if name is None:
        message = f"this document has no `name`, and the one in line {first.start} has none either"
        return second.problem((), message, hint="Only the result may have none.")
    message = f"the document in line {first.start} is named `{name}` already"
    return second.problem(("name",), message, hint="Give one of them another name.")


def _section_names(names: Sequence[str], *, taken: Sequence[str]) -> dict[str, str]:
    """Give each name a key that the section `merges` may have."""
    found: dict[str, str] = {}
    for name in names:
        key = _safe(name) or "merge"
        while key in (*taken, *found.values()):
            key += "-merge"
        found[name] = key
    return found


def _safe(text: str) -> str:
    return re.sub("[^A-Za-z0-9._-]+", "-", text).strip("-._")[:80]


def _result(read: Sequence[Source], names: Sequence[str | None], sections: Mapping[str, str]) -> int:
    """Tell which document is the result."""
    used = {name for one in read for name in model_names(one.data)}
    unused = [index for index, name in enumerate(names) if name is None or sections[name] not in used]
    if None in names:
        return names.index(None)
    return (unused or range(len(names)))[-1]


def _joined(source: Source, name: str, places: Sequence[tuple[Path, Source]]) -> Source:
    """Put the documents into one recipe, each at its path."""
    data: dict[str, Any] = {"name": name}
    keys: dict[Path, Place] = {}
    values: dict[Path, Place] = {}
    warnings: list[Problem] = []
    problems = list(source.problems)
    for path, one in places:
        start = one.keys[("merge_method",)]
        keys |= {path: start} | {(*path, *rest): place for rest, place in one.keys.items()}
        values |= {path: start} | {(*path, *rest): place for rest, place in one.values.items() if rest}
        warnings += one.warnings
        problems += one.problems
        if len(path) > 1:
            data.setdefault("merges", {})[path[1]] = one.data
        else:
            data["merge"] = one.data
    joined = replace(source, data=data, keys=keys, values=values, others=())
    return replace(joined, problems=tuple(problems), warnings=tuple(warnings))


def _without_unread(source: Source, merge: type[BaseModel]) -> Source:
    """Take out, with a warning each, the keys and settings that nothing reads."""
    found = [finding for path, config in merges(source.data) for finding in _unread(path, config, merge)]
    # From behind: an entry of a list that is taken out moves those after it.
    for finding in sorted(found, key=lambda one: [str(step).rjust(9) for step in one.path], reverse=True):
        _remove(source.data, finding.path)
    told = [
        source.problem(finding.path, f"{finding.message}: it is ignored", hint=finding.hint, at_key=finding.at_key)
        for finding in found
        if finding.path[-1] != TOLERATED
    ]
    ordered = sorted((*source.warnings, *told), key=lambda warning: (warning.line, warning.column))
    return replace(source, warnings=tuple(ordered))


def _unread(path: Path, config: Any, merge: type[BaseModel]) -> Iterator[Finding]:  # noqa: ANN401 - plain data
    yield from unread(path, config)
    try:
        merge.model_validate(config)
    except ValidationError as error:
        for finding in unknown_keys(error, config, merge):
            key = str(finding.path[-1])
            known = key in _READ_BY_NOTHING
            message = f"mergekit never reads `{key}`" if known else f"`{key}` is not a key of a mergekit configuration"
            hint = "Remove it." if known else finding.hint
            yield replace(finding, path=(*path, *finding.path), message=message, hint=hint)


def _remove(data: Any, path: Path) -> None:  # noqa: ANN401 - plain data
    for step in path[:-1]:
        if isinstance(data, dict) and step not in data:
            return  # it went with the section around it
        data = data[step]
    if isinstance(data, list):
        del data[int(path[-1])]
    else:
        data.pop(path[-1], None)
