"""A checkpoint folder: `config.json` and one or more safetensors files, opened without reading a tensor."""

from __future__ import annotations

import json
import mmap
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from engine.checkpoints._header import ITEM_BYTES, read_header
from engine.errors import PlanError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from engine.checkpoints._header import TensorInfo

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
# Old Llama checkpoints carry this table; no model reads it back, and it is no weight.
_DERIVED = ".rotary_emb.inv_freq"
_BLOCK = 1 << 20
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "adapter_model.bin")


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint: `config` as in `config.json`, `tensors` in the order of the files.

    Files are memory-mapped on the first read and stay mapped as long as the checkpoint lives.
    """

    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    _maps: dict[Path, mmap.mmap] = field(default_factory=dict, repr=False, compare=False)

    def file(self, name: str) -> Path | None:
        """Find a file of the folder; None where there is none. Raises PlanError if it is a link out of the folder."""
        path = self.folder / name
        return inside(self.folder, name, "the folder") if path.is_file() else None

    def read(self, name: str) -> Tensor:
        """Map one tensor in the dtype of its file, without copying where alignment allows. Never write to it."""
        return read_tensor(self.tensors[name], self._maps)

    def advise(self, name: str, advice: int) -> None:
        """Tell the system what is about to happen to the mapped pages of a tensor (`mmap.MADV_…`)."""
        info = self.tensors[name]
        mapped = self._maps.get(info.file)
        if mapped is not None and info.start < info.stop:
            start = info.start // mmap.PAGESIZE * mmap.PAGESIZE
            mapped.madvise(advice, start, info.stop - start)


def read_tensor(info: TensorInfo, maps: dict[Path, mmap.mmap]) -> Tensor:
    """Map one tensor of shape `info.shape` and dtype `info.dtype`; `maps` keeps the files open between calls."""
    import torch

    dtype: torch.dtype = getattr(torch, info.dtype)
    if info.start == info.stop:
        return torch.empty(info.shape, dtype=dtype)
    if info.file not in maps:
        with info.file.open("rb") as stream:
            # Read-only: a private writable mapping would count as memory, though nothing is ever written to it.
            maps[info.file] = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    mapped = maps[info.file]
    if info.start % ITEM_BYTES[info.dtype]:
        return torch.frombuffer(bytearray(mapped[info.start : info.stop]), dtype=dtype).reshape(info.shape)
    count = (info.stop - info.start) // ITEM_BYTES[info.dtype]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        return torch.frombuffer(mapped, dtype=dtype, count=count, offset=info.start).reshape(info.shape)


def open_checkpoint(folder: Path) -> Checkpoint:
    """Open a folder as transformers' `save_pretrained` writes it, reading only its configuration and headers.

    Raises:
        PlanError: no config, no safetensors weights, a shard that is missing, truncated or outside the folder.
    """
    config = read_json(folder, "config.json", "a model folder needs a config.json")
    if "quantization_config" in config:
        raise PlanError(
            f"{folder} holds a quantised model (its config.json has a `quantization_config`).",
            hint="Use the full-precision checkpoint that it was made from.",
        )
    if (folder / SINGLE).is_file():
        found = read_header(inside(folder, SINGLE, "the folder"))
    elif (folder / INDEX).is_file():
        found = _read_shards(folder)
    else:
        raise no_weights(folder, SINGLE)
    tensors = {name: info for name, info in found.items() if not name.endswith(_DERIVED)}
    if config.get("tie_word_embeddings") and HEAD in tensors and EMBEDDING in tensors:
        _check_tied(folder, tensors)
        del tensors[HEAD]  # it only repeats the embedding: there is one tensor, not two
    return Checkpoint(folder, config, tensors)


def read_json(folder: Path, name: str, need: str) -> dict[str, Any]:
    """Read a JSON object of a folder. Raises PlanError where it is missing, outside the folder or no JSON object."""
    if not (folder / name).is_file():
        raise PlanError(
            f"{folder} has no {name}; {need}.", hint="Check the path, or download the whole repository again."
        )
    try:
        value = json.loads(inside(folder, name, "the folder").read_bytes())
    except (ValueError, RecursionError) as error:
        raise PlanError(f"{folder / name} is no valid JSON: {error}.", hint="Download or write it again.") from error
    if not isinstance(value, dict):
        raise PlanError(f"{folder / name} should hold a JSON object and holds a {type(value).__name__}.")
    return value


def inside(folder: Path, name: str, named_by: str) -> Path:
    """Resolve `name` under `folder`, following only links that stay there or lead to the Hub cache's own blobs.

    Raises:
        PlanError: the name is absolute, climbs with `..`, or is a link to somewhere else.
    """
    path = folder / name
    roots = [folder.resolve()]
    if folder.parent.name == "snapshots":  # the Hub cache: snapshots/<commit>/file -> ../../blobs/<hash>
        roots.append((folder.parent.parent / "blobs").resolve())
    if not any(path.resolve().is_relative_to(root) for root in roots):
        raise PlanError(
            f"{folder}: {named_by} points to {name!r}, which lies outside the folder.",
            hint="A checkpoint's files have to lie in its own folder; do not trust the source of this one.",
        )
    return path


def no_weights(folder: Path, expected: str) -> PlanError:
    """Say that a folder has no safetensors weights, and whether it has pickled ones instead."""
    pickles = [name for name in _PICKLES if (folder / name).exists()]
    if pickles:
        return PlanError(
            f"{folder} has its weights only as a pickle ({pickles[0]}), which can run any code when it is opened.",
            hint="Convert it to safetensors on a machine that may run it, or use a revision that has them.",
        )
    return PlanError(f"{folder} has no weights: neither {expected} nor an index of shards is there.")


def _read_shards(folder: Path) -> dict[str, TensorInfo]:
    index = read_json(folder, INDEX, "a sharded checkpoint needs it")
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise PlanError(f"{folder / INDEX} has no `weight_map` from tensors to files.")
    headers: dict[str, dict[str, TensorInfo]] = {}
    for shard in sorted(dict.fromkeys(weight_map.values())):
        path = inside(folder, shard, f"the weight_map of {INDEX}")
        if path.parent != folder:  # its digest would not see them
            raise PlanError(f"{folder / INDEX} names {shard!r}: shards have to lie in the folder itself.")
        if not path.is_file():
            raise PlanError(f"{folder} lacks the shard {shard}, which {INDEX} names.", hint="Download it again.")
        headers[shard] = read_header(path)
    for name, shard in weight_map.items():
        if name not in headers[shard]:
            raise PlanError(f"{folder / shard} lacks the tensor {name}, which {INDEX} expects there.")
    return {
        name: info
        for shard, header in headers.items()
        for name, info in header.items()
        if weight_map.get(name) == shard
    }


def _check_tied(folder: Path, tensors: Mapping[str, TensorInfo]) -> None:
    head, embedding = tensors[HEAD], tensors[EMBEDDING]
    if (head.dtype, head.shape) != (embedding.dtype, embedding.shape) or not _same_bytes(head, embedding):
        raise PlanError(
            f"{folder} says `tie_word_embeddings: true`, and its {HEAD} differs from its {EMBEDDING}.",
            hint="Set `tie_word_embeddings` to false in its config.json if the output matrix is meant to be its own.",
        )


def _same_bytes(first: TensorInfo, second: TensorInfo) -> bool:
    """Compare two tensors of equal size without torch, up to the first difference."""
    with first.file.open("rb") as ours, second.file.open("rb") as theirs:
        ours.seek(first.start)
        theirs.seek(second.start)
        left = first.stop - first.start
        while left:
            count = min(left, _BLOCK)
            if ours.read(count) != theirs.read(count):
                return False
            left -= count
    return True
