"""The nodes of one YAML document as plain data: scalars read, aliases and merge keys written out, every place noted."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from engine.yaml_nodes import MAX_DEPTH, Complaint, Node, Place

if TYPE_CHECKING:
    from collections.abc import Mapping

Path = tuple[str | int, ...]
"""Where a value stands: the keys and list indices that lead to it."""

_MAX_NODES = 50_000  # after aliases are expanded; the largest recipes have some hundreds
_MAX_DIGITS = 100  # Python itself refuses integers of thousands of digits
_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL = {".inf": "inf", "+.inf": "inf", "-.inf": "-inf", ".nan": "nan"}
_WORDS: dict[str, bool | None] = {"true": True, "false": False, "null": None, "~": None, "": None}
_INTERPOLATION = re.compile(r"\$\{[^}\n]*\}")

_Pairs = dict[str, tuple[Node, Node]]


@dataclass(frozen=True)
class Values:
    """A document's data; the place of every key (of the value, in a list) and of every value; and what is wrong.

    `warnings` are what mergekit's reader passes over.
    """

    data: object
    keys: Mapping[Path, Place]
    values: Mapping[Path, Place]
    complaints: tuple[Complaint, ...]
    warnings: tuple[Complaint, ...]


def expand(root: Node, *, is_mergekit: bool) -> Values:
    """Give the data of a document, by the rules of a recipe or by mergekit's."""
    expander = _Expander(is_mergekit=is_mergekit)
    data = expander.expand(root, (), 0)
    return Values(data, expander.keys, expander.values, tuple(expander.complaints), tuple(expander.warnings))


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


def given_twice(key: str, second: Place, first: Place) -> Complaint:
    """Complain about the second of two keys with one name."""
    return Complaint(second, f"`{key}` is given twice", f"It stands in line {first.line} already; keep one of the two.")


class _Expander:
    """Turns nodes into plain data, aliases copied, and notes where each path stands."""

    def __init__(self, *, is_mergekit: bool) -> None:
        self.keys: dict[Path, Place] = {}
        self.values: dict[Path, Place] = {}
        self.complaints: list[Complaint] = []
        self.warnings: list[Complaint] = []
        self._is_mergekit = is_mergekit
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
        found = None if self._is_mergekit else _INTERPOLATION.search(node.text)
        if found:
            message = f"`{found[0]}` would stay as it is: a recipe has no variables"
            self._complain(node.place, message, "Write the value out; secrets never stand in a recipe.")
        return plain_value(node.text) if node.is_plain else node.text

    def _mapping(self, node: Node, path: Path, depth: int) -> dict[str, object]:
        pairs = {**self._inherited(node, depth), **self._own(node)}
        result: dict[str, object] = {}
        for name, (key, value) in pairs.items():
            if self._count > _MAX_NODES:
                break
            self.keys[*path, name] = key.place
            result[name] = self.expand(value, (*path, name), depth + 1)
        return result

    def _own(self, node: Node) -> _Pairs:
        """Give the pairs that stand in a mapping itself: of two with one name the first, in mergekit's the last."""
        found: _Pairs = {}
        for key, value in node.pairs:
            self._count += 1  # refused keys count too
            if _is_merge(key):
                if not self._is_mergekit:
                    self._complain(key.place, "the merge key `<<` is not part of a recipe", "Write the keys out.")
            elif not _is_text(key):
                shown = f"`{key.text}`" if key.kind == "scalar" else f"(a {key.kind})"
                self._complain(key.place, f"the key {shown} is not text", "Put the key in quotes.")
            elif key.text not in found:
                found[key.text] = (key, value)
            else:
                told = given_twice(key.text, key.place, found[key.text][0].place)
                if self._is_mergekit:
                    self.warnings.append(replace(told, message=f"{told.message}: mergekit reads the last"))
                    found[key.text] = (key, value)
                else:
                    self.complaints.append(told)
        return found

    def _inherited(self, node: Node, depth: int) -> _Pairs:
        """Give the pairs that the merge keys of a mapping bring in; in a list of mappings the first counts most."""
        found: _Pairs = {}
        for key, value in node.pairs if self._is_mergekit else ():
            for source in reversed(value.items or (value,)) if _is_merge(key) else ():
                self._count += 1 + len(source.pairs)
                if self._count > _MAX_NODES or depth > MAX_DEPTH:
                    self._stop(source)
                    return {}
                if source.kind != "mapping":
                    self._complain(source.place, "`<<` takes a section, or a list of sections", "Write the keys out.")
                found |= self._inherited(source, depth + 1)
                found |= {one.text: (one, other) for one, other in source.pairs if _is_text(one) and not _is_merge(one)}
                self._count += len(found)
        return found

    def _complain(self, place: Place, message: str, hint: str) -> None:
        self.complaints.append(Complaint(place, message, hint))


def _is_merge(key: Node) -> bool:
    return key.is_plain and key.text == "<<"


def _is_text(key: Node) -> bool:
    return key.kind == "scalar" and (not key.is_plain or isinstance(plain_value(key.text), str))
