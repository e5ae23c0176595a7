"""One YAML document as a tree of nodes with places, built on the event stream so that depth is bounded as it is read.

Building on events, not on PyYAML's composer, also shows explicit tags and keeps aliases shared: nothing is
expanded here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml
from yaml.reader import Reader

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_DEPTH = 32
NON_PRINTABLE = Reader.NON_PRINTABLE

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# What libyaml says and what a person does about it, the more specific first.
_REMEDIES = (
    ("mapping values are not allowed", "Check the indentation; a value that holds `: ` stands in quotes."),
    ("cannot start any token", "Indent with spaces, not tabs; a value that starts with @ or ` stands in quotes."),
    ("did not find expected ',' or", "Close the bracket or brace, and put a comma between the entries."),
    ("quoted scalar", "Close the quotes."),
    ("could not find expected ':'", "Every line of a section is `key: value`."),
    ("expected <document start>", "Another document begins with a line `---`."),
    ("did not find expected '-'", "Indent the line like its neighbours: a list and keys do not stand side by side."),
    ("did not find expected", "Indent the line with spaces exactly like its neighbours."),
)


@dataclass(frozen=True)
class Place:
    """A line and a column, both counted from 1; 0 means the file as a whole."""

    line: int
    column: int


@dataclass(frozen=True)
class Complaint:
    """A mistake of the syntax. Only a `fatal` one ends the reading."""

    place: Place
    message: str
    hint: str
    fatal: bool = False


@dataclass(frozen=True)
class Node:
    """A scalar (`text`), a sequence (`items`) or a mapping (`pairs`); aliases point to the node of their anchor."""

    place: Place
    kind: str
    text: str = ""
    is_plain: bool = False
    items: tuple[Node, ...] = ()
    pairs: tuple[tuple[Node, Node], ...] = ()


def compose(text: str) -> tuple[Node | None, list[Complaint]]:
    """Read the one document of a text: its root (None after a fatal mistake) and what is wrong with it."""
    composer = _Composer()
    try:
        return composer.document(text), composer.complaints
    except _FatalError as error:
        return None, [*composer.complaints, error.complaint]
    except yaml.MarkedYAMLError as error:
        return None, [*composer.complaints, _explain(error)]


class _Composer:
    """Turns events into nodes and collects what is wrong but can be read past."""

    def __init__(self) -> None:
        self.complaints: list[Complaint] = []
        self._anchors: dict[str, Node] = {}
        self._events: Iterator[Any] = iter(())

    def document(self, text: str) -> Node:
        if stray := NON_PRINTABLE.search(text):
            before = text[: stray.start()]
            place = Place(before.count("\n") + 1, len(before) - before.rfind("\n"))
            raise _FatalError(place, f"the character U+{ord(stray[0]):04X} cannot stand in YAML", "Remove it.")
        self._events = iter(yaml.parse(text, Loader=_LOADER))
        next(self._events)  # the start of the stream
        if isinstance(next(self._events), yaml.StreamEndEvent):
            raise _FatalError(Place(0, 0), "the file is empty", "A recipe starts with `name: …`.")
        root = self._node(next(self._events), 0)
        next(self._events)  # the end of the document
        following = next(self._events)
        if not isinstance(following, yaml.StreamEndEvent):
            self._complain(_place(following.start_mark), "another document starts here", "Begin it with a line `---`.")
        return root

    def _node(self, event: yaml.NodeEvent, depth: int) -> Node:
        place = _place(event.start_mark)
        if depth > MAX_DEPTH:
            raise _FatalError(place, f"nested deeper than {MAX_DEPTH} levels", "No recipe is that deep.")
        if isinstance(event, yaml.AliasEvent):
            return self._alias(str(event.anchor), place)
        tag = getattr(event, "tag", None)
        if tag not in {None, "!"}:
            shown = str(tag).replace("tag:yaml.org,2002:", "!!")
            self._complain(place, f"the tag `{shown}` is not part of a recipe", "A recipe is data: remove the tag.")
        node = self._content(event, place, depth)
        if event.anchor:
            self._anchors[event.anchor] = node
        return node

    def _content(self, event: yaml.NodeEvent, place: Place, depth: int) -> Node:
        if isinstance(event, yaml.ScalarEvent):
            return Node(place, "scalar", text=event.value, is_plain=not event.style)
        if isinstance(event, yaml.SequenceStartEvent):
            items = []
            while not isinstance(following := next(self._events), yaml.SequenceEndEvent):
                items.append(self._node(following, depth + 1))
            return Node(place, "sequence", items=tuple(items))
        pairs = []
        while not isinstance(following := next(self._events), yaml.MappingEndEvent):
            key = self._node(following, depth + 1)
            pairs.append((key, self._node(next(self._events), depth + 1)))
        return Node(place, "mapping", pairs=tuple(pairs))

    def _alias(self, anchor: str, place: Place) -> Node:
        if anchor not in self._anchors:
            self._complain(place, f"`*{anchor}` has no anchor `&{anchor}` before it", "Write the value out.")
            return Node(place, "scalar", is_plain=True)
        return self._anchors[anchor]

    def _complain(self, place: Place, message: str, hint: str) -> None:
        self.complaints.append(Complaint(place, message, hint))


class _FatalError(Exception):
    """Carries the mistake after which a document cannot be read on."""

    def __init__(self, place: Place, message: str, hint: str) -> None:
        super().__init__(message)
        self.complaint = Complaint(place, message, hint, fatal=True)


def _explain(error: yaml.MarkedYAMLError) -> Complaint:
    said = str(error.problem)
    if error.context and error.context_mark:
        said += f" ({error.context} that starts in line {error.context_mark.line + 1})"
    hint = next((remedy for words, remedy in _REMEDIES if words in said), "Write it as plain YAML.")
    return Complaint(_place(error.problem_mark), f"not valid YAML: {said}", hint, fatal=True)


def _place(mark: Any) -> Place:  # noqa: ANN401 - libyaml's mark or PyYAML's; None where libyaml knows none
    return Place(mark.line + 1, mark.column + 1) if mark else Place(0, 0)
