"""Which modules of a model PEFT can put a LoRA on, asked of transformers itself; no weight is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.errors import PlanError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path


@dataclass(frozen=True)
class Modules:
    """Names of modules by kind, in the model's order. `head` is the output matrix; `every` are all of them."""

    linear: tuple[str, ...]
    embeddings: tuple[str, ...]
    head: str | None
    every: tuple[str, ...]


def modules_of(folder: Path) -> Modules:
    """Lay out the model of a checkpoint folder on the meta device and list its modules.

    Raises:
        PlanError: transformers has no such model of its own; code in a checkpoint is never run.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            # An implementation of attention that the config names could be code from elsewhere.
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False, attn_implementation="eager")  # type: ignore[no-untyped-call]
    except (ValueError, KeyError, ImportError) as error:
        raise PlanError(
            f"transformers cannot lay out the model of {folder}: {error}",
            hint="A LoRA is extracted from causal language models that transformers knows by itself.",
        ) from error
    named = dict(model.named_modules())
    head = model.get_output_embeddings()
    return Modules(
        tuple(name for name, one in named.items() if isinstance(one, torch.nn.Linear) and one is not head),
        tuple(name for name, one in named.items() if isinstance(one, torch.nn.Embedding)),
        next((name for name, one in named.items() if one is head), None),
        tuple(named),
    )


def targets(chosen: Sequence[str], every: Collection[str]) -> list[str]:
    """Name modules as `target_modules` does: by their last part where it means no other module, else in full."""
    wanted = frozenset(chosen)
    others = {name.rpartition(".")[2] for name in every if name not in wanted}
    return sorted({name if name.rpartition(".")[2] in others else name.rpartition(".")[2] for name in chosen})
