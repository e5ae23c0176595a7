"""A source that has the result's vocabulary: its embeddings row by row where the result has them."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Protocol

from engine.vocabulary._rows import DEFAULT, PADDING, RowMap

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from engine.checkpoints import Checkpoint, Source
    from engine.vocabulary._plan import Vocabulary

_BLOCK_BYTES = 4 << 20


class Reader(Protocol):
    """What the executor asks of a source."""

    @property
    def checkpoint(self) -> Checkpoint:
        """What is read."""
        ...

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Give rows of a tensor, seen as a matrix of its last dimension."""
        ...

    def expect(self, name: str) -> None:
        """Ask the system to read a tensor's bytes soon."""
        ...

    def release(self, name: str) -> None:
        """Let go of a tensor's mapped pages."""
        ...


def renumbered(sources: Mapping[str, Source], vocabulary: Vocabulary) -> dict[str, Reader]:
    """Give every source the vocabulary's rows; one in which nothing moves is given as it is. No tensor is read."""
    by_source: dict[str, dict[str, RowMap]] = {}
    for (source, tensor), row_map in vocabulary.maps.items():
        by_source.setdefault(source, {})[tensor] = row_map
    return {
        name: Renumbered(name, sources, by_source[name]) if name in by_source else source
        for name, source in sources.items()
    }


class Renumbered:
    """Stands in for a source. Tensors of its vocabulary are float32 and made as asked for; all others pass through."""

    def __init__(self, name: str, sources: Mapping[str, Source], maps: Mapping[str, RowMap]) -> None:
        self._source = sources[name]
        self._sources = sources
        self._maps = maps
        self._means: dict[str, Tensor] = {}
        self._lock = threading.Lock()

    @property
    def checkpoint(self) -> Checkpoint:
        """The source's checkpoint, in which the vocabulary is still its own."""
        return self._source.checkpoint

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Give rows as the result numbers them, like `Source.rows`; a bias of the vocabulary is one row."""
        if name not in self._maps:
            return self._source.rows(name, start, stop)
        if len(self.checkpoint.tensors[name].shape) == 1:
            return self._made(name, 0, len(self._maps[name].own)).reshape(1, -1)[start:stop]
        return self._made(name, start, stop)

    def expect(self, name: str) -> None:
        """Ask the system to read a tensor's bytes soon, without waiting for them."""
        self._source.expect(name)

    def release(self, name: str) -> None:
        """Let go of a tensor's mapped pages."""
        self._source.release(name)

    def _made(self, name: str, start: int, stop: int) -> Tensor:
        import torch

        row_map = self._maps[name]
        own = torch.tensor(row_map.own[start:stop], dtype=torch.long)
        present = own >= 0
        if present.all():
            return _pick(self._source, name, own)
        made = torch.zeros(len(own), _columns(self._source, name))
        made[present] = _pick(self._source, name, own[present])
        lacking = own == DEFAULT
        if lacking.any():
            made[lacking] = self._default(name, torch.arange(start, start + len(own))[lacking])
        if (own == PADDING).any():
            made[own == PADDING] = self._mean(name)
        return made

    def _default(self, name: str, wanted: Tensor) -> Tensor:
        """Average the donors' rows, added in the order of the sources."""
        import torch

        total = torch.zeros(len(wanted), _columns(self._source, name))
        count = torch.zeros(len(wanted), 1)
        for donor, places in self._maps[name].defaults.items():
            row = torch.tensor([places[number] for number in wanted.tolist()], dtype=torch.long)
            given = row >= 0
            total[given] += _pick(self._sources[donor], name, row[given])
            count[given] += 1
        return total / count.clamp(min=1)

    def _mean(self, name: str) -> Tensor:
        """Average all rows that have a token, once (https://nlp.stanford.edu/~johnhew/vocab-expansion.html)."""
        import torch

        with self._lock:
            if name not in self._means:
                own, columns = self._maps[name].own, _columns(self._source, name)
                block = max(1, _BLOCK_BYTES // (4 * columns))
                total, count = torch.zeros(columns, dtype=torch.float64), 0
                for start in range(0, len(own), block):
                    tokens = [number for number in range(start, min(start + block, len(own))) if own[number] != PADDING]
                    for first, last in _runs(tokens):
                        total += self._made(name, first, last + 1).sum(0, dtype=torch.float64)
                    count += len(tokens)
                self._means[name] = (total / count).float()
            return self._means[name]


def _columns(source: Source, name: str) -> int:
    shape = source.checkpoint.tensors[name].shape
    return shape[1] if len(shape) > 1 else 1


def _pick(source: Source, name: str, rows: Tensor) -> Tensor:
    """Gather rows in float32: from the mapped tensor, which reads no others, or run by run where it is adapted."""
    import torch

    shape = source.checkpoint.tensors[name].shape
    if len(shape) == 1:
        return source.rows(name, 0, 1).reshape(-1, 1)[rows].float()
    if source.adapter is None or name not in source.adapter.updates:
        return source.rows(name, 0, shape[0])[rows].float()
    parts = [source.rows(name, first, last + 1) for first, last in _runs(rows.tolist())]
    return torch.cat(parts) if parts else torch.zeros(0, shape[1])


def _runs(numbers: list[int]) -> list[tuple[int, int]]:
    """Cut a list of numbers where the next is not one more: [4, 5, 9] is (4, 5) and (9, 9)."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return runs
