"""A LoRA out of two checkpoints: the best low-rank stand-in for what fine-tuning changed, and what it misses.

Each linear module's change, tuned - base in float32, is replaced by its truncated singular value decomposition
(https://arxiv.org/abs/2106.09685 for the form, Eckart-Young for the choice). What no LoRA can express is not dropped
in silence: it is listed with its size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.checkpoints import AdapterModule, check_tensors, check_tokenizers, open_checkpoint, write_adapter
from engine.errors import PlanError, StageError
from engine.events import Emit, Event, ignore
from engine.lora._lowrank import truncate
from engine.lora._modules import Modules, modules_of, targets
from engine.lora._output import new_folder
from engine.lora._report import Approximation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from engine.checkpoints import Checkpoint

_BASE, _TUNED = "base", "tuned"


@dataclass(frozen=True)
class LeftOut:
    """A tensor that differs and is not in the adapter.

    `norm` is that of the change, `relative` to the base's tensor; None where that is zero.
    """

    tensor: str
    why: str
    norm: float
    relative: float | None


@dataclass(frozen=True)
class Extraction:
    """What an extracted adapter holds, and what it leaves out."""

    modules: tuple[Approximation, ...]
    left_out: tuple[LeftOut, ...]


def extract_adapter(
    base: Path, tuned: Path, out: Path, *, rank: int, embeddings: bool = False, emit: Emit = ignore
) -> Extraction:
    """Write an adapter of `base` that comes as near to `tuned` as its rank allows, one tensor at a time.

    Args:
        base: a full-precision checkpoint.
        tuned: a checkpoint of the same architecture and vocabulary.
        out: a folder that does not exist yet.
        rank: of every module; smaller where a module has fewer rows or columns.
        embeddings: whether the embedding and the output matrix are taken as well; not where they are tied.
        emit: hears of `warning` and `progress`.

    Raises:
        PlanError: the checkpoints do not fit each other, or `out` is there already.
        StageError: values that are not finite, or checkpoints that differ in no linear module.
    """
    if rank < 1:
        raise PlanError(f"An adapter cannot have rank {rank}.")
    sources = _open(base, tuned, emit)
    with new_folder(out) as folder:
        changed = [name for name in sources[_BASE].tensors if _differs(sources, name)]
        known = modules_of(base)
        reasons = {name: _reason(name, known, sources[_BASE], embeddings=embeddings) for name in changed}
        modules = [_module(name, sources[_BASE], known, rank) for name in changed if not reasons[name]]
        if not modules:
            raise _nothing(base, tuned, changed)
        found: list[Approximation] = []

        def factors(module: str) -> tuple[Tensor, Tensor]:
            update = _update(sources, f"{module}.weight")
            small = truncate(update.T if module in known.embeddings else update, rank)
            found.append(Approximation(module, len(small.a), small.norm, small.residual))
            emit(Event("progress", "extract", {"done": len(found), "total": len(modules), "unit": "modules"}))
            return small.b, small.a

        write_adapter(folder, modules, factors, _settings(base, modules, known))
        left_out = tuple(_left_out(sources, name, why) for name, why in reasons.items() if why)
    return Extraction(tuple(found), left_out)


def _open(base: Path, tuned: Path, emit: Emit) -> dict[str, Checkpoint]:
    sources = {_BASE: open_checkpoint(base), _TUNED: open_checkpoint(tuned)}
    sizes = [source.config.get("vocab_size") for source in sources.values()]
    if sizes[0] != sizes[1]:
        raise PlanError(
            f"{base} has a vocabulary of {sizes[0]} tokens, and {tuned} one of {sizes[1]} (vocab_size).",
            hint="A LoRA cannot add tokens: extract from a checkpoint that kept the base's vocabulary.",
        )
    names = dict.fromkeys(name for source in sources.values() for name in source.tensors)
    warnings = check_tensors(sources, [[(_BASE, name), (_TUNED, name)] for name in names])
    for message in (*warnings, *check_tokenizers(sources, _TUNED)):
        emit(Event("warning", data={"message": message}))
    return sources


def _differs(sources: Mapping[str, Checkpoint], name: str) -> bool:
    one, other = (source.read(name) for source in sources.values())
    return not (one.equal(other) if one.dtype == other.dtype else one.float().equal(other.float()))


def _update(sources: Mapping[str, Checkpoint], name: str) -> Tensor:
    import torch

    update = sources[_TUNED].read(name).to(torch.float32, copy=True).sub_(sources[_BASE].read(name))
    if not update.isfinite().all():
        wrong = [source.folder for source in sources.values() if not source.read(name).isfinite().all()]
        raise StageError(
            f"{wrong[0] if wrong else 'The difference'} has NaN or infinite values in {name}.",
            hint="The checkpoint is damaged or its training diverged: download it again.",
        )
    return update


def _reason(name: str, known: Modules, base: Checkpoint, *, embeddings: bool) -> str:
    """Say why a tensor that differs cannot be in the adapter; nothing where it can."""
    module = name.removesuffix(".weight")
    if len(base.tensors[name].shape) <= 1:
        return "a vector (norm or bias)"
    if module in known.linear:
        return ""
    if module not in (*known.embeddings, known.head):
        return "no linear module of transformers' model"
    if base.config.get("tie_word_embeddings"):
        return "the embedding is tied to the output matrix"
    return "" if embeddings else "embeddings and output matrix were not asked for"


def _module(name: str, base: Checkpoint, known: Modules, rank: int) -> AdapterModule:
    rows, columns = base.tensors[name].shape
    module = name.removesuffix(".weight")
    if module in known.embeddings:
        rows, columns = columns, rows
    return AdapterModule(module, min(rank, rows, columns), rows, columns, embedding=module in known.embeddings)


def _left_out(sources: Mapping[str, Checkpoint], name: str, why: str) -> LeftOut:
    import torch

    norm, whole = (
        float(torch.linalg.vector_norm(tensor, dtype=torch.float64))
        for tensor in (_update(sources, name), sources[_BASE].read(name).float())
    )
    return LeftOut(name, why, norm, norm / whole if whole else None)


def _nothing(base: Path, tuned: Path, changed: Sequence[str]) -> StageError:
    if not changed:
        return StageError(f"{base} and {tuned} hold the same weights: there is nothing to extract.")
    return StageError(
        f"{base} and {tuned} differ only in tensors that no LoRA of linear modules can express ({changed[0]} …).",
        hint="Try `--embeddings` if it is the embeddings that were trained.",
    )


def _settings(base: Path, modules: Sequence[AdapterModule], known: Modules) -> dict[str, Any]:
    """Name the modules, and the base where it lies in the Hub cache (models--org--name/snapshots/commit).

    Any other path is of this machine, and nobody's business.
    """
    settings: dict[str, Any] = {"target_modules": targets([module.name for module in modules], known.every)}
    snapshots, repository = base.resolve().parent, base.resolve().parent.parent.name
    if snapshots.name == "snapshots" and repository.startswith("models--"):
        settings["base_model_name_or_path"] = repository.removeprefix("models--").replace("--", "/")
        settings["revision"] = base.resolve().name
    return settings
