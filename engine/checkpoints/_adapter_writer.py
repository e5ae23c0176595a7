"""Writing an adapter as PEFT's `save_pretrained` does: float32 factors as a stream, and `adapter_config.json`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.checkpoints._adapter import EMBEDDING_KEYS, LINEAR_KEYS, PREFIX, WEIGHTS
from engine.checkpoints._adapter_config import CONFIG
from engine.checkpoints._reader import SINGLE
from engine.checkpoints._writer import TensorSpec, write_checkpoint
from engine.files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    Factors = Callable[[str], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class AdapterModule:
    """A module of an adapter to be written: B is [rows, rank] and A [rank, columns].

    `embedding`: the module is an embedding of `columns` tokens, for which PEFT has keys of its own.
    """

    name: str
    rank: int
    rows: int
    columns: int
    embedding: bool = False

    @property
    def keys(self) -> tuple[str, str]:
        """The names of A and B in the file."""
        first, second = EMBEDDING_KEYS if self.embedding else LINEAR_KEYS
        return f"{PREFIX}{self.name}{first}", f"{PREFIX}{self.name}{second}"


def write_adapter(
    folder: Path, modules: Sequence[AdapterModule], factors: Factors, settings: Mapping[str, Any]
) -> None:
    """Write `factors(module)`, B and A in float32 with a scaling of 1, one module at a time.

    `lora_alpha` is `r`, and modules of a smaller rank have theirs in `rank_pattern` and `alpha_pattern`.

    Args:
        folder: an existing folder without weights; it is the caller's to make whole or absent.
        modules: what will be written, in order.
        factors: gives B and A of a module, once for each.
        settings: `target_modules`, and whatever else stands in the configuration.

    Raises:
        StageError: the folder holds weights already, or the disk has no room for them.
    """
    pending: dict[str, Tensor] = {}
    owners = {key: module for module in modules for key in module.keys}

    def compute(key: str) -> Tensor:
        if key not in pending:
            b, a = factors(owners[key].name)
            pending.update(zip(owners[key].keys, (a, b), strict=True))
        return pending.pop(key)

    specs = [
        TensorSpec(key, "float32", shape) for one in modules for key, shape in zip(one.keys, _shapes(one), strict=True)
    ]
    # One file whatever its size: PEFT reads no shards.
    write_checkpoint(folder, specs, compute, max_shard_bytes=sum(spec.nbytes for spec in specs) + 1)
    (folder / SINGLE).replace(folder / WEIGHTS)
    write_atomically(folder / CONFIG, json.dumps(_config(modules, settings), indent=2, sort_keys=True) + "\n")


def _shapes(module: AdapterModule) -> tuple[tuple[int, int], tuple[int, int]]:
    return (module.rank, module.columns), (module.rows, module.rank)


def _config(modules: Sequence[AdapterModule], settings: Mapping[str, Any]) -> dict[str, Any]:
    rank = max(module.rank for module in modules)
    smaller = {module.name: module.rank for module in modules if module.rank < rank}
    return {
        "alpha_pattern": smaller,
        "base_model_name_or_path": None,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": smaller,
        "revision": None,
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
        **settings,
    }
