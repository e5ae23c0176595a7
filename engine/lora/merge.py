"""An adapter merged into its full-precision base: one addition in float32, one rounding to the output's dtype."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.checkpoints import open_source
from engine.errors import StageError
from engine.events import Emit, ignore
from engine.executor import Merger
from engine.gate import check_merged
from engine.lora._output import new_folder

if TYPE_CHECKING:
    from pathlib import Path

    from engine.checkpoints import Source


def merge_adapter(base: Path, adapter: Path, out: Path, *, dtype: str | None = None, emit: Emit = ignore) -> None:
    """Write `base` with `adapter` added as a new checkpoint folder, a few rows at a time.

    It is the merge `passthrough` of mergekit's `base+adapter`, by the same executor.

    Args:
        base: a full-precision checkpoint.
        adapter: a PEFT LoRA adapter of it.
        out: a folder that does not exist yet.
        dtype: `float32`, `float16` or `bfloat16`; the base's own where it is None.
        emit: hears of `warning`, `progress` and `message`.

    Raises:
        PlanError: the adapter is no plain LoRA of this base, the base is quantised, or `out` is there already.
        StageError: the adapter changes nothing, a result that is not finite or does not open, or too little room.
    """
    source = open_source(base, adapter)
    config = {"merge_method": "passthrough", "models": [{"model": str(base)}], "dtype": dtype}
    merger = Merger(config, {str(base): source})
    if not _changes_anything(merger, source):
        raise StageError(
            f"The adapter {adapter} changes nothing in {base} when it is merged in {merger.plan.dtype}.",
            hint="It is untrained (its B is zero), or so small that rounding swallows it, which float32 would not do.",
        )
    with new_folder(out) as folder:
        merger.write(folder, emit)
        check_merged(folder, merger.specs, emit)


def _changes_anything(merger: Merger, source: Source) -> bool:
    """Compare adapted tensors with the base's own until one differs, which as a rule is the first."""
    for name in source.adapter.updates if source.adapter else ():
        merged = merger.tensor(name)
        if not merged.equal(source.checkpoint.read(name).to(merged.dtype)):
            return True
    return False
