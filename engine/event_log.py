"""events.jsonl: what happened in a run and when, one JSON object a line. Advisory: nothing is ever read from it."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from engine.events import Event

# Ticks of a bar are for the eye; a log of them would hide the rest.
_SKIPPED = ("progress", "asking")


class EventLog:
    """Appends events to a file; a torn last line of a killed run is cut off first."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Self:
        _cut_torn_tail(self._path)
        self._file = self._path.open("ab", buffering=0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del trace
        if kind is not None:
            self(Event("run_failed", data={"kind": kind.__name__, "message": str(error)}))
        self._file.close()

    def __call__(self, event: Event) -> None:
        """Write one event with the time of day in UTC."""
        if event.name in _SKIPPED:
            return
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        body = {"at": at, "event": event.name, "stage": event.stage, **event.data}
        line = (json.dumps(body, ensure_ascii=False) + "\n").encode()
        # A full disk costs the line and never the run.
        with suppress(OSError):
            written = self._file.write(line)
            if written != len(line):
                self._file.truncate(self._file.tell() - written)


def _cut_torn_tail(path: Path) -> None:
    if not path.is_file():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole != len(content):
        with path.open("r+b") as file:
            file.truncate(whole)
