"""The stages: one public file is one kind of work, a function `run(work)` of what it is given. None imports another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.events import Emit


@dataclass(frozen=True)
class Work:
    """What a stage is given.

    `inputs` maps roles to complete folders, `files` digests to data files, `labels` the merge's models (`m0` …) to the
    names that people use. The stage fills `output`; what it leaves in `scratch` survives a crash.
    """

    spec: Mapping[str, Any]
    seed: int
    inputs: Mapping[str, Path]
    files: Mapping[str, str]
    labels: Mapping[str, str]
    output: Path
    scratch: Path
    emit: Emit
