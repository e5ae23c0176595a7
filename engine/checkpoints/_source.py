"""A source of a merge: a checkpoint, or a checkpoint with a LoRA adapter on it (mergekit's `model+lora`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine.checkpoints._adapter import Adapter, open_adapter
from engine.checkpoints._reader import Checkpoint, open_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor


@dataclass(frozen=True)
class Source:
    """Tensors in float32, one at a time. A resident source keeps what it has read in memory for the next candidate."""

    checkpoint: Checkpoint
    adapter: Adapter | None = None
    resident: bool = False
    _kept: dict[str, Tensor] = field(default_factory=dict, repr=False, compare=False)

    def read(self, name: str) -> Tensor:
        """Give a floating-point tensor in float32, the adapter's update added in float32. Never write to it."""
        if name in self._kept:
            return self._kept[name].float()
        tensor = self.checkpoint.read(name)
        if self.adapter is not None and name in self.adapter.updates:
            tensor = tensor.float() + self.adapter.delta(name)
        if self.resident:
            # Kept in the file's dtype, which takes half the memory of float32 and converts exactly; an adapted
            # tensor exists only in float32. A copy of its own, so that no page of the file has to be read again.
            self._kept[name] = tensor.clone()
        return tensor.float()


def open_source(folder: Path, adapter: Path | None = None, *, resident: bool = False) -> Source:
    """Open a checkpoint folder and, if given, the PEFT LoRA adapter folder that rides on it; no tensor is read.

    Raises:
        PlanError: anything that `open_checkpoint` or `open_adapter` refuses.
    """
    checkpoint = open_checkpoint(folder)
    return Source(checkpoint, None if adapter is None else open_adapter(adapter, checkpoint.tensors), resident=resident)
