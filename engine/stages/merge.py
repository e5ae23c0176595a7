"""`merge`: the winner's weights, written by the same kernels that the search scored."""

from __future__ import annotations

import json

from engine.executor import Merger
from engine.files import RunningDigests
from engine.gate import check_merged
from engine.stages import Work, labelled, open_sources


def run(work: Work) -> None:
    """Write the merged checkpoint, and `merge.json` with the configuration that made it.

    Raises:
        PlanError: Sources that do not fit each other.
        StageError: A result that is not finite, or too little room.
    """
    config = work.spec.get("merge")
    if config is None:
        config = json.loads((work.inputs["search"] / "best.json").read_text(encoding="utf-8"))["merge"]
    # What does not fit is said with the names that the recipe uses.
    sources = {work.labels[name]: source for name, source in open_sources(work).items()}
    merger = Merger(labelled(config, work.labels), sources, seed=work.seed)
    model = work.output / "model"
    model.mkdir()
    with RunningDigests() as digests:
        merger.write(model, work.emit, digests=digests)
        work.digests.update(digests.finish())
    check_merged(model, merger.specs, work.emit)
    (work.output / "merge.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
