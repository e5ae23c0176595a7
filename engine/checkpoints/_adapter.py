"""A PEFT LoRA adapter as a source of low-rank updates: what it changes, and by how much."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from engine.checkpoints._header import read_header
from engine.checkpoints._reader import inside, no_weights, read_json, read_tensor
from engine.errors import PlanError

if TYPE_CHECKING:
    import mmap
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from engine.checkpoints._header import TensorInfo

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

_PREFIX = "base_model.model."
_LINEAR = (".lora_A.weight", ".lora_B.weight")
_EMBEDDING = (".lora_embedding_A", ".lora_embedding_B")
# Each of these changes the update into something other than scaling * B @ A, or the base that it is meant for.
_UNSUPPORTED = (
    "use_dora",
    "use_qalora",
    "lora_bias",
    "fan_in_fan_out",
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
    "alora_invocation_tokens",
)
# These initialisations leave the base as it was; PiSSA, OLoRA, LoftQ and their kin train against a changed base.
_PLAIN_INITIALISATIONS = (True, False, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True)
class LowRank:
    """The factors of one tensor's update. `transposed`: an embedding, whose factors PEFT keeps the other way round."""

    a: TensorInfo
    b: TensorInfo
    transposed: bool


@dataclass(frozen=True)
class Adapter:
    """An opened adapter: `updates` names the base tensors that it changes, in the order of its file."""

    folder: Path
    scaling: float
    updates: Mapping[str, LowRank]
    _maps: dict[Path, mmap.mmap] = field(default_factory=dict, repr=False, compare=False)

    def delta(self, name: str) -> Tensor:
        """Compute `scaling * B @ A` in float32, in the shape of the base tensor (https://arxiv.org/abs/2106.09685)."""
        update = self.updates[name]
        product = read_tensor(update.b, self._maps).float() @ read_tensor(update.a, self._maps).float()
        return (product.T if update.transposed else product) * self.scaling


def open_adapter(folder: Path, base: Mapping[str, TensorInfo]) -> Adapter:
    """Open an adapter folder as PEFT's `save_pretrained` writes it and match it with the tensors of its base.

    Raises:
        PlanError: not a plain LoRA, a key that matches no tensor of the base, or shapes that do not fit.
    """
    config = read_json(folder, CONFIG, "a PEFT adapter needs one")
    scaling = _scaling(folder, config)
    if not (folder / WEIGHTS).is_file():
        raise no_weights(folder, WEIGHTS)
    header = read_header(inside(folder, WEIGHTS, "the folder"))
    updates = {_target(folder, key, base): _low_rank(folder, key, header) for key in header if _is_first(key)}
    seconds = [key for key in header if not _is_first(key)]
    strays = [key for key in seconds if _partner(key) not in header and not _repeats(header[key], base)]
    if strays or not updates:
        raise _no_lora(folder, strays[0] if strays else "nothing at all")
    for name, update in updates.items():
        _check_shapes(folder, base[name], update, int(config["r"]))
    return Adapter(folder, scaling, updates)


def _scaling(folder: Path, config: Mapping[str, Any]) -> float:
    unsupported = [f"`{key}: {config[key]}`" for key in _UNSUPPORTED if config.get(key)]
    if config.get("peft_type") != "LORA":
        unsupported.insert(0, f"`peft_type: {config.get('peft_type')}`")
    if config.get("bias", "none") != "none":
        unsupported.append(f"`bias: {config['bias']}`")
    if config.get("init_lora_weights", True) not in _PLAIN_INITIALISATIONS:
        unsupported.append(f"`init_lora_weights: {config['init_lora_weights']}`")
    if unsupported:
        raise PlanError(
            f"The adapter {folder} is no plain LoRA: {', '.join(unsupported)} cannot be merged here.",
            hint="Merge it into its base with PEFT's `merge_and_unload` in float32 and name the result as the model.",
        )
    rank, alpha = int(config["r"]), float(config["lora_alpha"])
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def _is_first(key: str) -> bool:
    return key.endswith((_LINEAR[0], _EMBEDDING[0]))


def _partner(key: str) -> str:
    for first, second in (_LINEAR, _EMBEDDING):
        if key.endswith(first):
            return key.removesuffix(first) + second
        if key.endswith(second):
            return key.removesuffix(second) + first
    return ""


def _repeats(info: TensorInfo, base: Mapping[str, TensorInfo]) -> bool:
    """Tell a mere copy of a base tensor: PEFT saves the embeddings along where an adapter targets one of them."""
    name = info.name.removeprefix(_PREFIX).replace(".base_layer.weight", ".weight")
    if name not in base or base[name].shape != info.shape:
        return False
    return bool(read_tensor(base[name], {}).float().equal(read_tensor(info, {}).float()))


def _target(folder: Path, key: str, base: Mapping[str, TensorInfo]) -> str:
    module = key.removeprefix(_PREFIX).removesuffix(_LINEAR[0]).removesuffix(_EMBEDDING[0])
    name = f"{module}.weight"
    if not key.startswith(_PREFIX) or name not in base:
        raise PlanError(
            f"The adapter {folder} changes {module}, and its base has no tensor {name} (key {key}).",
            hint="It was trained on another architecture; name the base that it was trained on.",
        )
    return name


def _low_rank(folder: Path, key: str, header: Mapping[str, TensorInfo]) -> LowRank:
    if _partner(key) not in header:
        raise PlanError(f"The adapter {folder} has {key} and lacks its partner {_partner(key)}.")
    return LowRank(header[key], header[_partner(key)], transposed=key.endswith(_EMBEDDING[0]))


def _no_lora(folder: Path, key: str) -> PlanError:
    return PlanError(
        f"The adapter {folder} holds {key}, which is no pair of LoRA matrices.",
        hint="Save it without `modules_to_save`, biases or resized embeddings, or merge it into its base with PEFT.",
    )


def _check_shapes(folder: Path, target: TensorInfo, update: LowRank, rank: int) -> None:
    rows, columns = (*reversed(target.shape),) if update.transposed else target.shape
    if update.a.shape != (rank, columns) or update.b.shape != (rows, rank):
        raise PlanError(
            f"The adapter {folder} does not fit {target.name} of shape {list(target.shape)}: its factors have the "
            f"shapes {list(update.a.shape)} and {list(update.b.shape)}; expected {[rank, columns]} and {[rows, rank]}.",
            hint="Name the base that it was trained on.",
        )
