"""Fields that name code to run are refused by name, and harmless ones are not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from engine.errors import PlanError
from engine.untrusted import refuse_code

if TYPE_CHECKING:
    from pathlib import Path


def write(folder: Path, whole: Any, file: str = "config.json") -> Path:
    (folder / file).write_text(json.dumps(whole))
    return folder


@pytest.mark.parametrize(
    ("file", "whole", "named"),
    [
        ("config.json", {"auto_map": {"AutoConfig": "evil.Config"}}, "`auto_map: {"),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.T", None]}}, "`auto_map: {"),
        ("config.json", {"model_file": "evil.py"}, "`model_file: evil.py`"),
        ("config.json", {"text_config": {"auto_map": {"AutoModel": "evil.M"}}}, "`text_config.auto_map: {"),
        ("config.json", {"attn_implementation": "evil/kernel"}, "`attn_implementation: evil/kernel`"),
        (
            "config.json",
            {"_attn_implementation_internal": "evil/kernel"},
            "`_attn_implementation_internal: evil/kernel`",
        ),
        ("config.json", {"_attn_implementation": {"text_config": "evil/kernel"}}, "`_attn_implementation: {"),
        ("config.json", {"towers": [{"attn_implementation": "a/b:c"}]}, "`towers.attn_implementation: a/b:c`"),
        ("generation_config.json", {"attn_implementation": "evil/kernel"}, "generation_config.json"),
    ],
)
def test_a_field_that_names_code_is_refused(tmp_path: Path, file: str, whole: Any, named: str) -> None:
    with pytest.raises(PlanError) as caught:
        refuse_code(write(tmp_path, whole, file))
    assert named in caught.value.message
    assert str(tmp_path / file) in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    "whole",
    [
        {"model_type": "llama", "architectures": ["LlamaForCausalLM"]},
        {"_attn_implementation_autoset": True, "attn_implementation": "sdpa"},
        {"_attn_implementation": {"text_config": "eager", "vision_config": "flash_attention_2"}},
        {"attn_implementation": None, "auto_map": {}},
        ["no", "object"],
    ],
)
def test_what_names_no_code_passes(tmp_path: Path, whole: Any) -> None:
    refuse_code(write(tmp_path, whole))


def test_a_file_that_is_no_json_is_left_to_its_reader(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    refuse_code(tmp_path)
