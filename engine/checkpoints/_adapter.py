"""A PEFT LoRA adapter as a source of low-rank updates: what it changes, and by how much."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine.checkpoints._adapter_config import MAX_NAME, AdapterConfig, read_adapter_config
from engine.checkpoints._header import read_header
from engine.checkpoints._reader import EMBEDDING, HEAD, inside, no_weights, read_tensor
from engine.errors import PlanError

if TYPE_CHECKING:
    import mmap
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from engine.checkpoints._header import TensorInfo

WEIGHTS = "adapter_model.safetensors"

PREFIX = "base_model.model."
LINEAR_KEYS = (".lora_A.weight", ".lora_B.weight")
EMBEDDING_KEYS = (".lora_embedding_A", ".lora_embedding_B")

_BLOCK = 16  # rows of a product


@dataclass(frozen=True)
class LowRank:
    """The factors of one tensor's update, which is `scaling * B @ A`, with B [rows, rank] and A [rank, columns].

    `transposed`: an embedding, for which PEFT takes that product the other way round.
    """

    a: TensorInfo
    b: TensorInfo
    scaling: float
    transposed: bool

    @property
    def rank(self) -> int:
        """The rank that the factors have room for."""
        return self.a.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the tensor that it changes."""
        rows, columns = self.b.shape[0], self.a.shape[1]
        return (columns, rows) if self.transposed else (rows, columns)


@dataclass(frozen=True)
class Adapter:
    """An opened adapter: `updates` names the base tensors that it changes, in the order of its file.

    `others` are the tensors of its file that are no factors.
    """

    folder: Path
    config: AdapterConfig
    updates: Mapping[str, LowRank]
    others: tuple[TensorInfo, ...]
    _maps: dict[Path, mmap.mmap] = field(default_factory=dict, repr=False, compare=False)
    _factors: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False, compare=False)

    def delta(self, name: str) -> Tensor:
        """Compute `scaling * B @ A` in float32, in the shape of the base tensor (https://arxiv.org/abs/2106.09685)."""
        return self.rows(name, 0, len(self._pair(name)[0]))

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Compute rows [start, stop) of `delta`, the same bits whatever rows are asked for together."""
        import torch

        left, right = self._pair(name)
        # A product's last bits depend on its shape, so it is always made of the same blocks of rows.
        first = start // _BLOCK * _BLOCK
        blocks = [left[place : place + _BLOCK] @ right for place in range(first, stop, _BLOCK)]
        return torch.cat(blocks)[start - first : stop - first].mul_(self.updates[name].scaling)

    def factors(self, name: str) -> tuple[Tensor, Tensor]:
        """Read B and A as the file has them, without the scaling. Never write to them."""
        update = self.updates[name]
        return read_tensor(update.b, self._maps), read_tensor(update.a, self._maps)

    def release(self, name: str) -> None:
        """Let go of a tensor's factors."""
        self._factors.pop(name, None)

    def _pair(self, name: str) -> tuple[Tensor, Tensor]:
        """Give the factors whose product has the base tensor's shape, in float32 memory of their own."""
        if name not in self._factors:
            b, a = (factor.float() for factor in self.factors(name))
            pair = (a.T, b.T) if self.updates[name].transposed else (b, a)
            self._factors[name] = (pair[0].contiguous().clone(), pair[1].contiguous().clone())
        return self._factors[name]


def open_adapter(folder: Path, base: Mapping[str, TensorInfo]) -> Adapter:
    """Open an adapter folder as PEFT's `save_pretrained` writes it and match it with the tensors of its base.

    Raises:
        PlanError: not a plain LoRA, a key that matches no tensor of the base, or shapes that do not fit.
    """
    adapter = read_adapter(folder)
    for name, update in adapter.updates.items():
        _check_target(folder, name, base)
        if update.shape != base[name].shape:
            raise _unfit(folder, base[name], update)
    strays = [info.name for info in adapter.others if not _repeats(info, base)]
    if strays:
        raise _no_lora(folder, strays[0])
    return adapter


def read_adapter(folder: Path) -> Adapter:
    """Open an adapter folder without its base, so that whether it fits one is left open, and what its `others` are.

    Raises:
        PlanError: not a plain LoRA, or factors that do not fit each other or their own configuration.
    """
    config = read_adapter_config(folder)
    if not (folder / WEIGHTS).is_file():
        raise no_weights(folder, WEIGHTS)
    header = read_header(inside(folder, WEIGHTS, "the folder"))
    firsts = [key for key in header if key.endswith((LINEAR_KEYS[0], EMBEDDING_KEYS[0]))]
    updates = {f"{_module(folder, key)}.weight": _low_rank(config, key, header) for key in firsts}
    others = tuple(info for key, info in header.items() if key not in firsts and _partner(key) not in header)
    if not updates:
        raise _no_lora(folder, others[0].name if others else "nothing at all")
    return Adapter(folder, config, updates, others)


def _partner(key: str) -> str:
    for first, second in (LINEAR_KEYS, EMBEDDING_KEYS):
        if key.endswith(first):
            return key.removesuffix(first) + second
        if key.endswith(second):
            return key.removesuffix(second) + first
    return ""


def _repeats(info: TensorInfo, base: Mapping[str, TensorInfo]) -> bool:
    """Tell a mere copy of a base tensor: PEFT saves the embeddings along where an adapter targets one of them."""
    name = info.name.removeprefix(PREFIX).replace(".base_layer.weight", ".weight")
    if name not in base or base[name].shape != info.shape:
        return False
    return bool(read_tensor(base[name], {}).float().equal(read_tensor(info, {}).float()))


def _module(folder: Path, key: str) -> str:
    module = key.removeprefix(PREFIX).removesuffix(LINEAR_KEYS[0]).removesuffix(EMBEDDING_KEYS[0])
    if len(module) > MAX_NAME:
        raise PlanError(f"The adapter {folder} has a key of {len(key)} characters.", hint="Download it again.")
    if not key.startswith(PREFIX):
        raise PlanError(
            f"The adapter {folder} changes {module} by the key {key}, which does not begin with {PREFIX}.",
            hint="Save it with PEFT's `save_pretrained`.",
        )
    return module


def _check_target(folder: Path, name: str, base: Mapping[str, TensorInfo]) -> None:
    module = name.removesuffix(".weight")
    if name in (EMBEDDING, HEAD) and HEAD not in base and EMBEDDING in base:
        raise PlanError(
            f"The adapter {folder} changes {module}, and its base ties the embedding to the output matrix.",
            hint="PEFT changes one of the two and leaves the other, which no tied model can hold: "
            "train the adapter without them.",
        )
    if name not in base:
        raise PlanError(
            f"The adapter {folder} changes {module}, and its base has no tensor {name}.",
            hint="It was trained on another architecture; name the base that it was trained on.",
        )


def _low_rank(config: AdapterConfig, key: str, header: Mapping[str, TensorInfo]) -> LowRank:
    if _partner(key) not in header:
        raise PlanError(f"The adapter {config.folder} has {key} and lacks its partner {_partner(key)}.")
    module, a, b = _module(config.folder, key), header[key], header[_partner(key)]
    rank = config.rank(module)
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != rank or b.shape[1] != rank:  # noqa: PLR2004 - matrices
        raise PlanError(
            f"The adapter {config.folder} does not fit its own configuration: {module} should have rank {rank}, and "
            f"its factors have the shapes {list(a.shape)} and {list(b.shape)}.",
            hint="Download or save it again.",
        )
    return LowRank(a, b, config.scaling(module), transposed=key.endswith(EMBEDDING_KEYS[0]))


def _no_lora(folder: Path, key: str) -> PlanError:
    return PlanError(
        f"The adapter {folder} holds {key}, which is no pair of LoRA matrices.",
        hint="Save it without `modules_to_save`, biases or resized embeddings, or merge it into its base with PEFT.",
    )


def _unfit(folder: Path, target: TensorInfo, update: LowRank) -> PlanError:
    return PlanError(
        f"The adapter {folder} does not fit {target.name} of shape {list(target.shape)}: its update has the shape "
        f"{list(update.shape)}.",
        hint="Name the base that it was trained on.",
    )
