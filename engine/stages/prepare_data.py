"""`prepare_data`: training files become chat rows, one JSON object a line."""

from __future__ import annotations

import json
from pathlib import Path

from engine.data_rows import read_rows
from engine.events import Event
from engine.stages import Work


def run(work: Work) -> None:
    """Read the dataset and write `rows.jsonl`.

    Raises:
        StageError: Rows that are malformed, or none at all.
    """
    rows = read_rows(work.spec, [Path(work.files[digest]) for digest in work.spec["files"]])
    with (work.output / "rows.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    work.emit(Event("message", data={"text": f"{len(rows)} training rows"}))
