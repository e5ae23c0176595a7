"""Streaming safetensors in and out: what a checkpoint folder holds, one tensor at a time, without loading the model.

Opening reads `config.json` and the headers alone and imports no torch, so a plan can be checked in milliseconds.
`source = checkpoint + adapter`: a PEFT LoRA adapter rides on its base and is added in float32 while reading.
"""

from engine.checkpoints._adapter import Adapter, open_adapter
from engine.checkpoints._agreement import check_tensors, check_tokenizers
from engine.checkpoints._folder import copy_tokenizer, layer_settings, merged_config, write_config
from engine.checkpoints._header import TensorInfo
from engine.checkpoints._reader import Checkpoint, open_checkpoint
from engine.checkpoints._source import Source, open_source
from engine.checkpoints._writer import MAX_SHARD_BYTES, TensorSpec, write_checkpoint

__all__ = [
    "MAX_SHARD_BYTES",
    "Adapter",
    "Checkpoint",
    "Source",
    "TensorInfo",
    "TensorSpec",
    "check_tensors",
    "check_tokenizers",
    "copy_tokenizer",
    "layer_settings",
    "merged_config",
    "open_adapter",
    "open_checkpoint",
    "open_source",
    "write_checkpoint",
    "write_config",
]
