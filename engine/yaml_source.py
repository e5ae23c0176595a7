"""YAML that remembers the line and column of every key and value, and refuses what a recipe has no use for.

Plain scalars follow the JSON schema of YAML 1.2, not YAML 1.1: `1e-4` is a number, `on` and `no` are words and
`2024-01-01` is text. There are no tags, no merge keys (`<<`) and no variables; aliases are copied, within bounds.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import yaml

from engine.errors import Problem, RecipeError
from engine.yaml_nodes import MAX_DEPTH, NON_PRINTABLE, Node, Place, compose

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path as FilePath

Path = tuple[str | int, ...]
"""Where a value stands: the keys and list indices that lead to it."""

_LINE_WIDTH = 120
_MAX_BYTES = 1_000_000
_MAX_NODES = 50_000  # after aliases are expanded; the largest recipes have some hundreds
_MAX_SECTIONS = 64  # to read one by one: a recipe has ten
_MAX_DIGITS = 100  # Python itself refuses integers of thousands of digits

_LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL = {".inf": "inf", "+.inf": "inf", "-.inf": "-inf", ".nan": "nan"}
_WORDS: dict[str, bool | None] = {"true": True, "false": False, "null": None, "~": None, "": None}
_INTERPOLATION = re.compile(r"\$\{[^}\n]*\}")
_TOP_KEY = re.compile(r"""\s*["']?([^\s"':]+)["']?\s*:""")


@dataclass(frozen=True)
class Source:
    """A YAML file as plain data, and where each part of it stands.

    `keys` holds the place of the key (of the value, in a list), `values` that of the value. `problems` are the mistakes
    of the syntax; `data` is what could be read all the same, `unreadable` names the sections that could not.
    """

    file: str
    lines: tuple[str, ...]
    data: Any = None
    keys: Mapping[Path, Place] = field(default_factory=dict)
    values: Mapping[Path, Place] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    unreadable: tuple[str, ...] = ()

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
    """Parse one YAML document into plain data with places; mistakes are collected in `problems`, never raised.

    Where the syntax is broken, the sections at the left margin are read one by one: a broken one hides no other.
    """
    whole, is_broken = _parse_once(text, file)
    if not is_broken:
        return whole
    sections = _sections(text)
    if not 1 < len(sections) <= _MAX_SECTIONS:
        return whole
    joined = _join(whole, [start for start, _ in sections], [_parse_once(part, file) for _, part in sections])
    return joined if joined.unreadable else whole


def plain_value(text: str) -> str | float | bool | None:
    """Read an unquoted scalar: a number, true, false, null or the text itself."""
    folded = text.lower()
    if folded in _WORDS and text in {folded, folded.capitalize(), folded.upper()}:
        return _WORDS[folded]
    if folded in _SPECIAL:
        return float(_SPECIAL[folded])
    if _INT.fullmatch(text):
        return int(text) if len(text) < _MAX_DIGITS else text
    return float(text) if _FLOAT.fullmatch(text) else text


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


def _parse_once(text: str, file: str) -> tuple[Source, bool]:
    """Read a text as one document; say also whether it was broken beyond reading."""
    source = Source(file, tuple(_LINE_BREAK.split(text)))
    root, complaints = compose(text)
    problems = [source.problem_at(told.place, told.message, told.hint) for told in complaints]
    if root is None:
        return replace(source, problems=tuple(problems)), True
    expander = _Expander(source, problems)
    data = expander.expand(root, (), 0)
    source = replace(source, data=data, keys=expander.keys, values=expander.values, problems=tuple(problems))
    return source, False


def _sections(text: str) -> list[tuple[str, str]]:
    """Cut a text where a line starts at the margin; give the line and its section, preceded by as many blank lines."""
    lines = text.split("\n")
    starts = [number for number, line in enumerate(lines) if line[:1] not in {"", " ", "\t", "#", "\r", *"}])-%"}]
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
                problems.append(_twice(whole, key, part.keys[key,], keys[key,]))
                continue
            data[key] = part.data[key]
            keys |= {path: place for path, place in part.keys.items() if path[:1] == (key,)}
            values |= {path: place for path, place in part.values.items() if path[:1] == (key,)}
    problems = [replace(problem, source=whole.lines[problem.line - 1]) for problem in problems if problem.line]
    return replace(whole, data=data, keys=keys, values=values, problems=tuple(problems), unreadable=tuple(unreadable))


def _twice(source: Source, key: str, second: Place, first: Place) -> Problem:
    hint = f"It stands in line {first.line} already; keep one of the two."
    return source.problem_at(second, f"`{key}` is given twice", hint)


class _Expander:
    """Turns nodes into plain data, aliases copied, and notes where each path stands."""

    def __init__(self, source: Source, problems: list[Problem]) -> None:
        self.keys: dict[Path, Place] = {}
        self.values: dict[Path, Place] = {}
        self._source = source
        self._problems = problems
        self._count = 0

    def expand(self, node: Node, path: Path, depth: int) -> object:
        """Give the data of a node: text, number, boolean, None, list or dict."""
        self._count += 1
        if self._count > _MAX_NODES or depth > MAX_DEPTH:
            self._stop(node)
            return None
        self.values[path] = node.place
        if node.kind == "scalar":
            return self._scalar(node)
        if node.kind == "sequence":
            self.keys |= {(*path, index): item.place for index, item in enumerate(node.items)}
            return [self.expand(item, (*path, index), depth + 1) for index, item in enumerate(node.items)]
        return self._mapping(node, path, depth)

    def _stop(self, node: Node) -> None:
        """Say once that there is too much, and let nothing more be expanded."""
        if self._count <= _MAX_NODES + 1:
            message = f"the file holds more than {_MAX_NODES:,} values once its aliases are written out"
            self._complain(node.place, message, "No recipe is that large; data belongs in files that it names.")
        self._count = _MAX_NODES + 2

    def _scalar(self, node: Node) -> str | float | bool | None:
        if found := _INTERPOLATION.search(node.text):
            message = f"`{found[0]}` would stay as it is: a recipe has no variables"
            self._complain(node.place, message, "Write the value out; secrets never stand in a recipe.")
        return plain_value(node.text) if node.is_plain else node.text

    def _mapping(self, node: Node, path: Path, depth: int) -> dict[str, object]:
        result: dict[str, object] = {}
        for key, value in node.pairs:
            if self._count > _MAX_NODES:
                break
            self._count += 1  # refused keys count too
            if key.is_plain and key.text == "<<":
                self._complain(key.place, "the merge key `<<` is not part of a recipe", "Write the keys out.")
            elif not _is_text(key):
                shown = f"`{key.text}`" if key.kind == "scalar" else f"(a {key.kind})"
                self._complain(key.place, f"the key {shown} is not text", "Put the key in quotes.")
            elif key.text in result:
                self._problems.append(_twice(self._source, key.text, key.place, self.keys[*path, key.text]))
            else:
                self.keys[*path, key.text] = key.place
                result[key.text] = self.expand(value, (*path, key.text), depth + 1)
        return result

    def _complain(self, place: Place, message: str, hint: str) -> None:
        self._problems.append(self._source.problem_at(place, message, hint))


def _is_text(key: Node) -> bool:
    return key.kind == "scalar" and (not key.is_plain or isinstance(plain_value(key.text), str))
