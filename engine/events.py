"""What the engine says while it works: plain values that the display, the log and machines all read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Event:
    """One thing that happened. `name` is a verb phrase (`stage_started`), `stage` the stage it belongs to.

    `data` holds JSON values only.
    """

    name: str
    stage: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)


Emit = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Listen to nothing: the `Emit` of code that runs without an audience."""
    del event
