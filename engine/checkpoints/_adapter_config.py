"""What an adapter's `adapter_config.json` says: whether it is a plain LoRA, and each module's rank and scaling."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.checkpoints._reader import read_json
from engine.errors import PlanError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

CONFIG = "adapter_config.json"

# Each of these changes the update into something other than scaling * B @ A, or the base that it is meant for.
_UNSUPPORTED = (
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "lora_bias",
    "fan_in_fan_out",
    "modules_to_save",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
)
# These initialisations leave the base as it was; PiSSA, OLoRA, LoftQ and their kin train against a changed base.
_PLAIN_INITIALISATIONS = (True, False, "gaussian", "eva", "orthogonal")
# What keeps a regular expression busy for years: a repeated group, or many choices. No module's name needs them.
_REPEATED_GROUP = re.compile(r"\)[*+{?]")
_REPETITION = re.compile(r"[*+{?|]")
_MAX_REPETITIONS = 3
MAX_NAME = 300
"""Characters of a module's name, and of a pattern for some."""
_LARGEST = 1e9


@dataclass(frozen=True)
class AdapterConfig:
    """The settings of a plain LoRA adapter. Modules are named as in the base (`model.layers.0.self_attn.q_proj`)."""

    folder: Path
    settings: Mapping[str, Any]

    def rank(self, module: str) -> int:
        """Give the rank of a module's factors: `r`, or what `rank_pattern` says."""
        return int(self._number("r", "rank_pattern", module))

    def scaling(self, module: str) -> float:
        """Give what B @ A is multiplied by (with `use_rslora`: https://arxiv.org/abs/2312.03732)."""
        rank, alpha = self.rank(module), self._number("lora_alpha", "alpha_pattern", module)
        return alpha / math.sqrt(rank) if self.settings.get("use_rslora") else alpha / rank

    def _number(self, key: str, patterns: str, module: str) -> float:
        # As PEFT does: the first pattern that matches the name or its end.
        found = [value for pattern, value in (self.settings.get(patterns) or {}).items() if _matches(pattern, module)]
        return float(found[0] if found else self.settings[key])


def read_adapter_config(folder: Path) -> AdapterConfig:
    """Read the `adapter_config.json` of a folder.

    Raises:
        PlanError: there is none, or it describes more than a plain LoRA.
    """
    settings = read_json(folder, CONFIG, "a PEFT adapter needs one")
    unsupported = [f"`{key}: {settings[key]}`" for key in _UNSUPPORTED if settings.get(key)]
    if settings.get("peft_type") != "LORA":
        unsupported.insert(0, f"`peft_type: {settings.get('peft_type')}`")
    if settings.get("bias", "none") != "none":
        unsupported.append(f"`bias: {settings['bias']}`")
    if settings.get("init_lora_weights", True) not in _PLAIN_INITIALISATIONS:
        unsupported.append(f"`init_lora_weights: {settings['init_lora_weights']}`")
    if unsupported:
        raise PlanError(
            f"The adapter {folder} is no plain LoRA: {', '.join(unsupported)} cannot be merged here.",
            hint="Merge it into its base with PEFT's `merge_and_unload` in float32 and name the result as the model.",
        )
    wrong = [*_wrong_numbers(settings), *_wrong_patterns(settings)]
    if wrong:
        raise PlanError(f"{folder / CONFIG} cannot be used: {wrong[0]}.", hint="Download or write it again.")
    return AdapterConfig(folder, settings)


def _matches(pattern: str, module: str) -> bool:
    return re.match(_anywhere(pattern), module) is not None


def _anywhere(pattern: str) -> str:
    return rf"(.*\.)?({pattern})$"


def _wrong_numbers(settings: Mapping[str, Any]) -> list[str]:
    numbers = [("`r`", settings.get("r"), True), ("`lora_alpha`", settings.get("lora_alpha"), False)]
    for key, whole in (("rank_pattern", True), ("alpha_pattern", False)):
        pattern = settings.get(key) or {}
        if not isinstance(pattern, dict):
            return [f"`{key}` is {pattern!r}, and should map names of modules to numbers"]
        numbers += [(f"`{key}` of {name!r}", value, whole) for name, value in pattern.items()]
    return [
        f"{what} is {value!r}, and should be {'a whole number above 0' if whole else 'a number'}"
        for what, value, whole in numbers
        if not _is_number(value, whole=whole)
    ]


def _is_number(value: object, *, whole: bool) -> bool:
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        return False
    return abs(value) < _LARGEST and (value > 0 or not whole)  # false for NaN too


def _wrong_patterns(settings: Mapping[str, Any]) -> list[str]:
    found = []
    for pattern in [*(settings.get("rank_pattern") or {}), *(settings.get("alpha_pattern") or {})]:
        tangled = _REPEATED_GROUP.search(pattern) or len(_REPETITION.findall(pattern)) > _MAX_REPETITIONS
        if tangled or len(pattern) > MAX_NAME:
            found.append(f"the pattern {pattern!r} repeats too much to be safe")
            continue
        try:
            re.compile(_anywhere(pattern))
        except (re.error, OverflowError, RecursionError) as error:
            found.append(f"the pattern {pattern!r} is no regular expression ({error})")
    return found
