"""LoRA tools: merge an adapter into its base, combine adapters of one base, extract an adapter from two checkpoints.

All of them stream one tensor at a time and write a folder that is whole or absent.
"""

from engine.lora._report import Approximation, total_error
from engine.lora.combine import Part, combine_adapters
from engine.lora.extract import Extraction, LeftOut, extract_adapter
from engine.lora.merge import merge_adapter

__all__ = [
    "Approximation",
    "Extraction",
    "LeftOut",
    "Part",
    "combine_adapters",
    "extract_adapter",
    "merge_adapter",
    "total_error",
]
