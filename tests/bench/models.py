"""Makes the checkpoints that the benchmarks merge: Llama-shaped, random, seeded, sharded; once, and in little memory.

    python -m tests.bench.models --shape 1b

They lie in `$CHOGO_BENCH/<shape>/{base,a,b}` (by default `~/.cache/chogo-bench`). Every matrix of `base` is drawn from
N(0, 0.02), its norms are ones; `a` and `b` are `base` plus N(0, 0.002). All is rounded to bfloat16 once. No model is
held in memory: the tensors are drawn a few million numbers at a time, for all models in one pass.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Generator, Tensor

_BLOCK = 1 << 22
_BASE_STD, _CHANGE_STD = 0.02, 0.002
_BYTES = 2
"""Of one bfloat16 number."""


@dataclass(frozen=True)
class Shape:
    """What a checkpoint's tensors look like, which models of it are made, and how large their shards are."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    models: tuple[str, ...] = ("base", "a", "b")
    shard_bytes: int = 900_000_000

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Give names and shapes in the order of the model."""
        hidden, inner, keys = self.hidden, self.intermediate, self.hidden // self.heads * self.kv_heads
        parts = {
            "self_attn.q_proj": (hidden, hidden),
            "self_attn.k_proj": (keys, hidden),
            "self_attn.v_proj": (keys, hidden),
            "self_attn.o_proj": (hidden, hidden),
            "mlp.gate_proj": (inner, hidden),
            "mlp.up_proj": (inner, hidden),
            "mlp.down_proj": (hidden, inner),
            "input_layernorm": (hidden,),
            "post_attention_layernorm": (hidden,),
        }
        yield "model.embed_tokens.weight", (self.vocabulary, hidden)
        for layer in range(self.layers):
            for part, shape in parts.items():
                yield f"model.layers.{layer}.{part}.weight", shape
        yield "model.norm.weight", (hidden,)
        yield "lm_head.weight", (self.vocabulary, hidden)

    def parameters(self) -> int:
        """Count the numbers of one model."""
        return sum(math.prod(shape) for _, shape in self.tensors())

    def nbytes(self) -> int:
        """Count the bytes of one model's tensors."""
        return self.parameters() * _BYTES

    def config(self) -> dict[str, Any]:
        """Give the config.json of a model."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "vocab_size": self.vocabulary,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "hidden_act": "silu",
            "max_position_embeddings": 2048,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "bos_token_id": 1,
            "eos_token_id": 2,
            "initializer_range": 0.02,
            "attention_bias": False,
        }


SHAPES = {
    "tiny": Shape(256, 704, 4, 8, 2, 2000, shard_bytes=4_000_000),
    "1b": Shape(2048, 5632, 22, 32, 4, 32000),  # TinyLlama
    "7b": Shape(4096, 14336, 32, 32, 8, 32000, models=("a", "b")),  # Mistral-7B
}


def bench_folder() -> Path:
    """Name the folder of all that the benchmarks make."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("CHOGO_BENCH") or cache / "chogo-bench")


def make(name: str, root: Path) -> dict[str, Path]:
    """Make the models of a shape in `root/name` unless they are there; give their folders.

    Raises:
        SystemExit: What is there is something else, or the disk has too little room.
    """
    shape, folder = SHAPES[name], root / name
    if not folder.exists():
        need_room(root, len(shape.models) * shape.nbytes(), f"the {name} models")
        temporary = root / f".{name}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        for model in shape.models:
            (temporary / model).mkdir(parents=True)
        _write(shape, temporary)
        temporary.replace(folder)
    found = {model: folder / model for model in shape.models}
    for path in found.values():
        _check(shape, path)
    return found


def need_room(folder: Path, nbytes: int, what: str) -> None:
    """Stop with a clear message where a disk has less room than `nbytes` and a tenth of it."""
    folder.mkdir(parents=True, exist_ok=True)
    free, needed = shutil.disk_usage(folder).free, nbytes * 1.1
    if free < needed:
        raise SystemExit(
            f"{folder} has {free / 1e9:.1f} GB free, and {what} need {needed / 1e9:.1f} GB. "
            "Free some space, or name a folder on another disk: CHOGO_BENCH=…"
        )


def weights(folder: Path) -> list[Path]:
    """List the weight files of a model, by name."""
    return sorted(folder.glob("*.safetensors"))


def _check(shape: Shape, folder: Path) -> None:
    config = folder / "config.json"
    same = config.is_file() and json.loads(config.read_text(encoding="utf-8")) == shape.config()
    if not same or sum(file.stat().st_size for file in weights(folder)) < shape.nbytes():
        raise SystemExit(f"{folder} is not a model of this shape. Remove {folder.parent} and run the same again.")


def _write(shape: Shape, folder: Path) -> None:
    import torch

    torch.set_num_threads(1)
    shards = list(_shards(shape))
    drawn = torch.Generator().manual_seed(1)
    changes = {model: torch.Generator().manual_seed(10 + number) for number, model in enumerate(("base", "a", "b"))}
    for number, shard in enumerate(shards, start=1):
        name = _shard_name(number, len(shards))
        with ExitStack() as stack:
            files = {model: stack.enter_context((folder / model / name).open("wb")) for model in shape.models}
            for file in files.values():
                file.write(_header(shard))
            for _, size in shard:
                _write_tensor(size, drawn, changes, files)
    index = {tensor: _shard_name(number, len(shards)) for number, shard in enumerate(shards, 1) for tensor, _ in shard}
    about = {"metadata": {"total_size": shape.nbytes()}, "weight_map": index}
    for model in shape.models:
        (folder / model / "model.safetensors.index.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
        (folder / model / "config.json").write_text(json.dumps(shape.config(), indent=1), encoding="utf-8")


def _write_tensor(
    size: Sequence[int], drawn: Generator, changes: Mapping[str, Generator], files: Mapping[str, IO[bytes]]
) -> None:
    import torch

    left = math.prod(size)
    while left:
        count = min(left, _BLOCK)
        base = torch.ones(count) if len(size) == 1 else torch.randn(count, generator=drawn) * _BASE_STD
        for model, file in files.items():
            change = None if model == "base" else torch.randn(count, generator=changes[model]) * _CHANGE_STD
            file.write(_bytes(base if change is None else base + change))
        left -= count


def _bytes(tensor: Tensor) -> memoryview:
    import torch

    return tensor.to(torch.bfloat16).view(torch.uint8).numpy().data


def _shards(shape: Shape) -> Iterator[list[tuple[str, tuple[int, ...]]]]:
    """Cut the tensors into shards; inside one they lie by name, as the safetensors library lays them."""
    shard: list[tuple[str, tuple[int, ...]]] = []
    room = shape.shard_bytes
    for name, size in shape.tensors():
        nbytes = math.prod(size) * _BYTES
        if shard and nbytes > room:
            yield sorted(shard)
            shard, room = [], shape.shard_bytes
        shard.append((name, size))
        room -= nbytes
    yield sorted(shard)


def _shard_name(number: int, count: int) -> str:
    return f"model-{number:05d}-of-{count:05d}.safetensors"


def _header(shard: Sequence[tuple[str, tuple[int, ...]]]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, size in shard:
        start, end = end, end + math.prod(size) * _BYTES
        entries[name] = {"dtype": "BF16", "shape": list(size), "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def main() -> None:
    """Make the models that are asked for."""
    parser = argparse.ArgumentParser(description="Make the checkpoints that the benchmarks merge.")
    parser.add_argument("--shape", choices=SHAPES, default="1b")
    make(parser.parse_args().shape, bench_folder())


if __name__ == "__main__":
    main()
