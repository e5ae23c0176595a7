"""YAML that remembers the line and column of every key and value, and refuses what a recipe has no use for.

Plain scalars follow the JSON schema of YAML 1.2, not YAML 1.1: `1e-4` is a number, `on` and `no` are words and
`2024-01-01` is text. There are no tags, no merge keys (`<<`) and no variables; aliases are copied, within bounds.

A document with a top-level `merge_method` is mergekit's and is read more as mergekit's reader does: merge keys are
followed, and of a key that is given twice the last counts, with a warning.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import yaml

from engine.errors import Problem, RecipeError
from engine.yaml_nodes import NON_PRINTABLE, Place, compose
from engine.yaml_values import Path, expand, given_twice, plain_value

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path as FilePath

__all__ = ["Path", "Source", "parse", "read_source", "to_yaml"]

_MERGE_METHOD = "merge_method"
_LINE_WIDTH = 120
_MAX_BYTES = 1_000_000
_MAX_SECTIONS = 64  # to read one by one: a recipe has ten
_MAX_DOCUMENTS = 32

_LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
# Nothing else may begin a line so, not even inside a text of several lines.
_DOCUMENT = re.compile(r"^---(?=\s|$)", re.MULTILINE)
_NO_CONTENT = re.compile(r"\s*(#.*|%.*|---\s*(#.*)?|\.\.\.\s*(#.*)?)?")
_TOP_KEY = re.compile(r"""\s*["']?([^\s"':]+)["']?\s*:""")


@dataclass(frozen=True)
class Source:
    """A YAML document as plain data, and where each part of it stands.

    `keys` holds the place of the key (of the value, in a list), `values` that of the value. `problems` are the mistakes
    of the syntax; `data` is what could be read all the same, `unreadable` names the sections that could not.
    `warnings` are what mergekit's reader passes over. `start` is the line in which the document starts, `others` are
    those that follow it in the file.
    """

    file: str
    lines: tuple[str, ...]
    data: Any = None
    keys: Mapping[Path, Place] = field(default_factory=dict)
    values: Mapping[Path, Place] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    unreadable: tuple[str, ...] = ()
    warnings: tuple[Problem, ...] = ()
    start: int = 1
    others: tuple[Source, ...] = ()

    @property
    def is_mergekit(self) -> bool:
        """Whether this is a plain mergekit configuration and no recipe."""
        return isinstance(self.data, dict) and _MERGE_METHOD in self.data

    def problem(self, path: Path, message: str, *, hint: str | None = None, at_key: bool = False) -> Problem:
        """Make the problem of what stands at `path`, or at the key of the nearest section around it."""
        places = self.keys if at_key else self.values
        while path and path not in places:
            path, places = path[:-1], self.keys
        return self.problem_at(places.get(path, Place(0, 0)), message, hint)

    def problem_at(self, place: Place, message: str, hint: str | None) -> Problem:
        """Make a problem with the source line of its place."""
        line = self.lines[place.line - 1] if 0 < place.line <= len(self.lines) else ""
        # Nothing in a stranger's file may steer the terminal that shows it.
        return Problem(message, place.line, place.column, NON_PRINTABLE.sub("\ufffd", line), hint)


def read_source(path: FilePath) -> Source:
    """Read a YAML file.

    Raises:
        RecipeError: a file that is not there, not UTF-8 text, or larger than 1 MB.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            message = f"larger than {_MAX_BYTES // 1_000_000} MB, which no recipe is"
            raise RecipeError(str(path), [Problem(message, hint="Data belongs in files that the recipe names.")])
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        problem = Problem(f"cannot be read: {error.strerror}", hint="Check the path.")
        raise RecipeError(str(path), [problem]) from error
    except UnicodeDecodeError as error:
        problem = Problem(f"is not UTF-8 text (byte {error.start})", hint="Save the file as UTF-8.")
        raise RecipeError(str(path), [problem]) from error
    return parse(text, str(path))


def parse(text: str, file: str) -> Source:
    """Parse YAML into plain data with places; mistakes are collected in `problems`, never raised.

    Where the syntax is broken, the sections at the left margin are read one by one: a broken one hides no other.
    """
    lines = tuple(_LINE_BREAK.split(text))
    parts = _documents(text)
    first, *others = (_parse_document(part, start, Source(file, lines)) for start, part in parts[:_MAX_DOCUMENTS])
    if len(parts) > _MAX_DOCUMENTS:
        message = f"the file has more than {_MAX_DOCUMENTS} documents"
        problem = first.problem_at(Place(parts[_MAX_DOCUMENTS][0], 1), message, "Cut it into several files.")
        first = replace(first, problems=(*first.problems, problem))
    return replace(first, others=tuple(others))


def to_yaml(data: object) -> str:
    """Write plain data as YAML that `parse` reads back as the same data, in the order given."""
    return yaml.dump(
        data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=_LINE_WIDTH
    )


class _Dumper(yaml.SafeDumper):
    """Quotes the words that this module, unlike YAML 1.1, reads as something else."""

    def ignore_aliases(self, data: object) -> bool:
        """Write equal values out each time."""
        del data
        return True


def _text_node(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None if isinstance(plain_value(text), str) else "'"
    if _LINE_BREAK.search(text):
        style = '"'  # escapes keep the kind of each line break, which folding does not
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text_node)


def _documents(text: str) -> list[tuple[int, str]]:
    """Cut a text into its documents, up to one too many; give the line of each, and it after as many blank lines."""
    starts = [found.start() for found in _DOCUMENT.finditer(text)]
    if starts and _is_empty(text[: starts[0]]):
        starts = starts[1:]
    parts = [text[start:stop] for start, stop in itertools.pairwise([0, *starts, len(text)])]
    lines = itertools.accumulate((len(_LINE_BREAK.findall(part)) for part in parts), initial=0)
    filled = ((line + 1, "\n" * line + part) for line, part in zip(lines, parts, strict=False) if not _is_empty(part))
    return list(itertools.islice(filled, _MAX_DOCUMENTS + 1)) or [(1, text)]


def _is_empty(text: str) -> bool:
    return all(_NO_CONTENT.fullmatch(line) for line in text.split("\n"))


def _parse_document(text: str, start: int, bare: Source) -> Source:
    whole, is_broken = _parse_once(text, bare)
    sections = _sections(text) if is_broken else []
    if 1 < len(sections) <= _MAX_SECTIONS:
        is_mergekit = any(line.startswith(_MERGE_METHOD) for line, _ in sections)
        parts = [_parse_once(part, bare, is_mergekit=is_mergekit) for _, part in sections]
        joined = _join(whole, [line for line, _ in sections], parts)
        whole = joined if joined.unreadable else whole
    return replace(whole, start=start)


def _parse_once(text: str, bare: Source, *, is_mergekit: bool = False) -> tuple[Source, bool]:
    """Read a text as one document of a file; say also whether it was broken beyond reading."""
    root, complaints = compose(text)
    problems = [bare.problem_at(told.place, told.message, told.hint) for told in complaints]
    if root is None:
        return replace(bare, problems=tuple(problems)), True
    found = expand(root, is_mergekit=is_mergekit or any(key.text == _MERGE_METHOD for key, _ in root.pairs))
    problems += [bare.problem_at(told.place, told.message, told.hint) for told in found.complaints]
    warnings = [bare.problem_at(told.place, told.message, told.hint) for told in found.warnings]
    ordered = sorted(problems, key=lambda problem: (problem.line, problem.column))
    source = replace(bare, problems=tuple(ordered), warnings=tuple(warnings))
    return replace(source, data=found.data, keys=found.keys, values=found.values), False


def _sections(text: str) -> list[tuple[str, str]]:
    """Cut a text where a line starts at the margin; give the line and its section, preceded by as many blank lines."""
    lines = text.split("\n")
    starts = [number for number, line in enumerate(lines) if line[:1] not in {"", " ", "\t", "#", "\r", *"}])-%."}]
    starts = starts[: _MAX_SECTIONS + 1]
    return [
        (lines[start], "\n" * start + "\n".join(lines[start:stop]))
        for start, stop in itertools.pairwise([*starts, len(lines)])
    ]


def _join(whole: Source, starts: list[str], parts: list[tuple[Source, bool]]) -> Source:
    """Put sections together. Of two with one name the first is kept and the second is a problem."""
    data: dict[str, Any] = {}
    keys: dict[Path, Place] = {}
    values: dict[Path, Place] = {(): Place(1, 1)}
    problems: list[Problem] = []
    unreadable: list[str] = []
    for start, (part, is_broken) in zip(starts, parts, strict=True):
        # An anchor may stand in another section, so an unknown one proves nothing here.
        problems += [problem for problem in part.problems if "has no anchor" not in problem.message]
        if is_broken:
            found = _TOP_KEY.match(start)
            unreadable.append(found[1] if found else start)
        for key in part.data if isinstance(part.data, dict) else ():
            if key in data:
                told = given_twice(key, part.keys[key,], keys[key,])
                problems.append(whole.problem_at(told.place, told.message, told.hint))
                continue
            data[key] = part.data[key]
            keys |= {path: place for path, place in part.keys.items() if path[:1] == (key,)}
            values |= {path: place for path, place in part.values.items() if path[:1] == (key,)}
    placed = tuple(problem for problem in problems if problem.line)
    return replace(whole, data=data, keys=keys, values=values, problems=placed, unreadable=tuple(unreadable))
