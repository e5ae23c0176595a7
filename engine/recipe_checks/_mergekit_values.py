"""The values of a plain mergekit configuration as a recipe writes them: what pydantic's lax mode makes of text there.

Names of models stand alone in mergekit and mean a folder that is there, or a repository of the Hub without a namespace;
in a file of several documents they may also name one of these.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

from engine.recipe_checks._find import find, nearest
from engine.recipe_checks._references import named_in
from engine.references import ModelReference, parse_part, parse_reference, reference_parts

if TYPE_CHECKING:
    from engine.errors import Problem
    from engine.yaml_source import Path, Source

_SWITCHES = {"true": True, "yes": True, "on": True, "t": True, "y": True} | {
    "false": False, "no": False, "off": False, "f": False, "n": False,
}  # fmt: skip
_WHOLE: tuple[tuple[str, ...], ...] = (
    ("slices", "*", "sources", "*", "layer_range", "*"),
    ("modules", "*", "slices", "*", "sources", "*", "layer_range", "*"),
    ("tokenizer", "pad_to_multiple_of"),
    ("tokenizer", "tokens", "*", "source", "token_id"),
)
_SETTINGS: tuple[tuple[str, ...], ...] = (
    ("parameters", "*"),
    ("models", "*", "parameters", "*"),
    ("slices", "*", "parameters", "*"),
    ("slices", "*", "sources", "*", "parameters", "*"),
    ("modules", "*", "parameters", "*"),
    ("modules", "*", "models", "*", "parameters", "*"),
    ("modules", "*", "slices", "*", "parameters", "*"),
    ("modules", "*", "slices", "*", "sources", "*", "parameters", "*"),
)
_OVERRIDE = "override_architecture"


def in_our_terms(document: Source, sections: Mapping[str, str] | None) -> Source:
    """Rewrite a document's references, numbers and switches.

    Args:
        document: a mergekit configuration.
        sections: the key in `merges` of every named document, where the file has several.
    """
    data = copy.deepcopy(document.data)
    reader = _References(replace(document, data=data), sections)
    for path, value, is_tokenizer in list(named_in(data)):
        if value is not None and not (is_tokenizer and value in ("base", "union")):
            _put(data, path, reader.read(path, value))
    for pattern in _SETTINGS:
        for path, value in list(find(data, *pattern)):
            _put(data, path, _setting(value))
    for pattern in _WHOLE:
        for path, value in list(find(data, *pattern)):
            _put(data, path, _whole(value))
    for path, value in list(find(data, "tokenizer", "tokens", "*", "force")):
        _put(data, path, _setting(value))
    if isinstance(data.get("name"), int | float):
        data["name"] = str(data["name"])
    problems, warnings = (*document.problems, *reader.problems), (*document.warnings, *reader.warnings)
    return replace(document, data=data, problems=problems, warnings=warnings)


def model_names(config: object) -> Iterator[str]:
    """Give the keys of `merges` that a rewritten merge uses."""
    for _, value, _ in named_in(config):
        try:
            reference = parse_reference(value) if isinstance(value, str | dict) else None
        except ValueError:
            continue
        if reference is not None and reference.kind == "section":
            yield reference.name


@dataclass
class _References:
    """Reads the references of one document and collects what is odd about them."""

    document: Source
    sections: Mapping[str, str] | None
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)

    def read(self, path: Path, value: object) -> object:
        """Give a reference as a recipe writes it; what is none is left for the format to refuse."""
        if isinstance(value, dict) and value.get(_OVERRIDE) is not None:
            message = f"`{_OVERRIDE}` is not read, for tensors go by their names: it is ignored"
            self.warnings.append(self.document.problem((*path, _OVERRIDE), message, hint="Remove it.", at_key=True))
            value = {key: inner for key, inner in value.items() if key != _OVERRIDE}
        try:
            source, adapter = reference_parts(value)
            found = self._part(path, source)
            return replace(found, adapter=None if adapter is None else self._part(path, adapter)).as_written()
        except ValueError:
            return value

    def _part(self, path: Path, part: object) -> ModelReference:
        text, revision = _text(part)
        if self.sections and text in self.sections:
            return ModelReference("section", self.sections[text])
        if revision is not None and FilePath(text).is_dir():
            message = f"the folder {text} has no revisions: @{revision} is ignored"
            self.warnings.append(self.document.problem(path, message, hint="Remove it."))
            part = text
        if "/" in text or text.startswith(("hf:", "pypi:", ".", "~")):
            return parse_part(part)
        if FilePath(text).exists():
            return ModelReference("local", f"./{text}")
        if self.sections is not None:
            message = f"no document of this file is named `{text}`"
            hint = nearest(text, self.sections, f"A repository of the Hub without a namespace is hf:{text}.")
            self.problems.append(self.document.problem(path, message, hint=hint))
        return parse_part(f"hf:{text}" if revision is None else f"hf:{text}@{revision}")


def _text(part: object) -> tuple[str, str | None]:
    """Give a part's path and revision, which mergekit tells apart by the at sign."""
    if isinstance(part, dict):
        revision = part.get("revision")
        return str(part.get("path")), None if revision is None else str(revision)
    text = str(part)
    if FilePath(text).exists() or "@sha256:" in text:
        return text, None
    path, _, revision = text.partition("@")
    return path, revision or None


def _setting(value: object) -> object:
    """Read the numbers and switches of a parameter, however deep they stand."""
    if isinstance(value, list):
        return [_setting(inner) for inner in value]
    if isinstance(value, dict):
        return {key: _setting(inner) if key == "value" else inner for key, inner in value.items()}
    if not isinstance(value, str):
        return value
    if value.lower() in _SWITCHES:
        return _SWITCHES[value.lower()]
    try:
        number = float(value)
    except ValueError:
        return value
    return number if math.isfinite(number) else value


def _whole(value: object) -> object:
    try:
        number = float(value) if isinstance(value, str | float) else None
    except ValueError:
        return value
    return int(number) if number is not None and number.is_integer() else value


def _put(data: Any, path: Path, value: object) -> None:  # noqa: ANN401 - plain data
    for step in path[:-1]:
        data = data[step]
    data[path[-1]] = value
