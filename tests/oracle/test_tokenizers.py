"""Merges of different vocabularies against mergekit 0.1.5: the same tokens, and for each token the same rows.

mergekit numbers the new tokens of a union in the order of a hash table, so rows are compared by their tokens.
"""

from __future__ import annotations

import importlib.resources
import json
import logging
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from safetensors.torch import load_file
from transformers import AutoTokenizer

from engine.checkpoints import open_checkpoint, open_source
from engine.checkpoints._tokenizer import read_tokenizer
from engine.executor import Merger
from engine.vocabulary._chat import builtin_templates, choose_template
from tests.tiny_vocabularies import tiny_vocabularies

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import torch

    Run = Callable[[dict[str, Any], Path], None]
    Folders = dict[str, Path]

pytestmark = pytest.mark.slow

VOCABULARY = ("model.embed_tokens.weight", "lm_head.weight")
RULES = {
    "<end>": {"source": "japanese"},
    "<new>": {"source": {"kind": "model_token", "model": "english", "token": "A"}},
    "<zero>": {"source": {"kind": "zero"}},
    "A": {"source": {"kind": "model_token", "model": "japanese", "token_id": 9}, "force": True},
    "B": {"source": "english", "force": True},
}


@pytest.fixture(scope="session")
def mergekit() -> Run:
    """Import mergekit once (13 s of CPU) and run its own executor on a configuration."""
    logging.getLogger("mergekit").setLevel(logging.CRITICAL)
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    def run(config: dict[str, Any], folder: Path) -> None:
        run_merge(
            MergeConfiguration.model_validate(config), str(folder), MergeOptions(quiet=True, write_model_card=False)
        )

    return run


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return tiny_vocabularies(tmp_path_factory.mktemp("vocabularies"), layers=2)


def placed(node: Any, folders: Folders, key: str = "") -> Any:
    """Write paths for names, as mergekit wants them."""
    if isinstance(node, dict):
        return {name: placed(value, folders, name) for name, value in node.items()}
    if isinstance(node, list):
        return [placed(one, folders) for one in node]
    word = key in ("tokenizer_source", "source") and node in ("base", "union")
    return str(folders[node]) if key in ("model", "base_model", "tokenizer_source", "source") and not word else node


def linear(names: str, base: str | None = "base", **config: Any) -> dict[str, Any]:
    weights = (0.5, 0.3, -0.4)
    models = [
        {"model": name, "parameters": {"weight": weight}} for name, weight in zip(names.split(), weights, strict=False)
    ]
    whole = {"merge_method": "linear", "models": models, "parameters": {"normalize": False}, "dtype": "float32"}
    return {**whole, **config, **({"base_model": base} if base else {})}


def both(config: dict[str, Any], folders: Folders, run: Run, root: Path) -> tuple[Path, Path]:
    """Merge with ours and with mergekit, and check that the two agree token by token."""
    ours, theirs = root / "ours", root / "theirs"
    ours.mkdir()
    Merger(config, {name: open_source(folder) for name, folder in folders.items()}).write(ours)
    run(placed(config, folders), theirs)
    found, expected = load_file(ours / "model.safetensors"), load_file(theirs / "model.safetensors")
    assert sorted(found) == sorted(expected)
    mine, other = (AutoTokenizer.from_pretrained(folder).get_vocab() for folder in (ours, theirs))
    assert set(mine) == set(other)
    sizes = [json.loads((folder / "config.json").read_text())["vocab_size"] for folder in (ours, theirs)]
    assert sizes[0] == sizes[1] == len(found[VOCABULARY[0]])
    for name, tensor in expected.items():
        if name in VOCABULARY:
            assert_same(by_token(found[name], mine), by_token(tensor, other), name)
        else:
            assert_same(found[name], tensor, name)
    return ours, theirs


def by_token(tensor: torch.Tensor, tokens: dict[str, int]) -> torch.Tensor:
    """Put the rows into the order of the tokens' texts, and behind them the padding."""
    return tensor[[*(tokens[token] for token in sorted(tokens)), *range(len(tokens), len(tensor))]]


def assert_same(found: torch.Tensor, expected: torch.Tensor, name: str) -> None:
    assert found.shape == expected.shape
    difference, scale = float((found - expected).abs().max()), float(expected.abs().max())
    assert difference <= 1e-6 * scale, f"{name} differs by {difference} at a scale of {scale}"


def added_tokens(folder: Path) -> dict[str, dict[str, Any]]:
    entries = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    return {entry["content"]: {name: value for name, value in entry.items() if name != "id"} for entry in entries}


TOKENIZERS = [
    {"tokenizer_source": "base"},
    {"tokenizer_source": "english"},
    {"tokenizer_source": "japanese"},
    {"tokenizer_source": "union"},
    {"tokenizer": {"source": "union", "pad_to_multiple_of": 64}},
    {"tokenizer": {"source": "japanese", "pad_to_multiple_of": 7, "tokens": RULES}},
    {"tokenizer": {"source": "union", "pad_to_multiple_of": 100, "tokens": RULES}},
]


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_with_a_base_its_rows_fill_in(mergekit: Run, folders: Folders, tmp_path: Path, tokenizer: dict) -> None:
    ours, theirs = both(linear("english japanese base", **tokenizer), folders, mergekit, tmp_path)
    assert added_tokens(ours) == added_tokens(theirs)


@pytest.mark.parametrize("tokenizer", TOKENIZERS[1:])
def test_without_a_base_the_mean_fills_in(mergekit: Run, folders: Folders, tmp_path: Path, tokenizer: dict) -> None:
    both(linear("base english japanese", None, **tokenizer), folders, mergekit, tmp_path)


@pytest.mark.parametrize(
    "config",
    [
        {"architecture": "qwen2", "tie_word_embeddings": True},
        {"architecture": "qwen2"},
        {"architecture": "mistral"},
        {"tie_word_embeddings": True},
    ],
)
def test_other_architectures(mergekit: Run, tmp_path: Path, config: dict[str, Any]) -> None:
    # Qwen2's tokenizer adds this token to any that lacks it.
    folders = tiny_vocabularies(tmp_path / "models", "<|endoftext|>", **config)
    asked = linear("english japanese", tokenizer={"source": "union", "pad_to_multiple_of": 64, "tokens": RULES})
    both({**asked, "merge_method": "task_arithmetic"}, folders, mergekit, tmp_path)


def test_ties_over_a_union(mergekit: Run, folders: Folders, tmp_path: Path) -> None:
    config = linear("english japanese", tokenizer_source="union")
    config = {**config, "merge_method": "ties", "parameters": {"density": 0.4}}
    both(config, folders, mergekit, tmp_path)


def test_slices_of_models_with_different_vocabularies(mergekit: Run, folders: Folders, tmp_path: Path) -> None:
    """The embeddings are the first slice's, the output matrix the last one's: tokens of the other are zero."""
    slices = [
        {"sources": [{"model": "english", "layer_range": [0, 1]}]},
        {"sources": [{"model": "japanese", "layer_range": [1, 2]}]},
    ]
    config = {"merge_method": "passthrough", "slices": slices, "dtype": "float32", "base_model": "english"}
    ours, _ = both({**config, "tokenizer_source": "union"}, folders, mergekit, tmp_path)
    tokens = AutoTokenizer.from_pretrained(ours).get_vocab()
    merged = load_file(ours / "model.safetensors")
    assert merged[VOCABULARY[0]][tokens["<end>"]].count_nonzero() == 0
    assert merged[VOCABULARY[1]][tokens["<end>"]].count_nonzero() == 32


def test_rules_over_the_base_hold_in_models_with_spare_rows_too(
    mergekit: Run, folders: Folders, tmp_path: Path
) -> None:
    """mergekit adds the tokens of rules to the very tokenizer that it then takes for the base's own.

    Where the base has rows beyond its tokens, these untrained rows become the new tokens', whatever the rule says. With
    the base named by its path mergekit reads it again, and is right.
    """
    tokens = {name: RULES[name] for name in ("<new>", "<end>")}
    config = linear("english japanese base", tokenizer={"source": "base", "tokens": tokens})
    with pytest.raises(AssertionError, match="differs by"):
        both(config, folders, mergekit, tmp_path)
    found = load_file(tmp_path / "ours" / "model.safetensors")
    other = {
        **placed(config, folders),
        "tokenizer": {"source": str(folders["base"]), "tokens": placed(tokens, folders)},
    }
    mergekit(other, tmp_path / "by path")
    for name, tensor in load_file(tmp_path / "by path" / "model.safetensors").items():
        assert_same(found[name], tensor, name)


TURNS = [
    {"role": "system", "content": "医師として答える。"},
    {"role": "user", "content": "発熱と咳がある。"},
    {"role": "assistant", "content": "いつからですか。"},
    {"role": "user", "content": "三日前から。"},
]


@pytest.mark.parametrize("name", ["chatml", "exaone", "llama3", "mistral"])
@pytest.mark.parametrize("turns", [TURNS, TURNS[1:], TURNS[1:3]])
@pytest.mark.parametrize("prompt", [True, False])
def test_built_in_templates_say_what_those_of_mergekit_say(
    folders: Folders, name: str, turns: list[dict[str, str]], *, prompt: bool
) -> None:
    """mergekit's files for Llama 3 and EXAONE put line breaks and indentation between turns, as no such model has seen.

    Alpaca is left out: mergekit's lacks the sentence that its data open with, and the end of an answer.
    """
    tokenizer = AutoTokenizer.from_pretrained(folders["base"])
    theirs = importlib.resources.files("mergekit._data.chat_templates").joinpath(f"{name}.jinja").read_text()
    facts = read_tokenizer(open_checkpoint(folders["base"]))
    ours, _ = choose_template(name, {"base": facts}, ("base", facts))
    rendered = [
        tokenizer.apply_chat_template(turns, chat_template=one, tokenize=False, add_generation_prompt=prompt)
        for one in (ours, theirs)
    ]
    if name in ("exaone", "llama3"):
        assert rendered[0] != rendered[1]
        rendered = ["".join(text.split()) for text in rendered]
    assert rendered[0] == rendered[1]
    assert turns[-1]["content"] in rendered[0]


def test_mergekits_names_are_all_built_in() -> None:
    files = importlib.resources.files("mergekit._data.chat_templates").iterdir()
    assert set(builtin_templates()) == {file.name[: -len(".jinja")] for file in files if file.name.endswith(".jinja")}


def test_auto_takes_the_template_that_mergekit_takes(mergekit: Run, folders: Folders, tmp_path: Path) -> None:
    copies = {name: shutil.copytree(folder, tmp_path / name) for name, folder in folders.items()}
    for name, text in (("base", "{{ 1 }}"), ("english", "{{ 2 }}"), ("japanese", "{{ 2 }}\n")):
        (copies[name] / "chat_template.jinja").write_text(text)
    config = linear("english japanese base", tokenizer_source="base", chat_template="auto")
    ours, theirs = both(config, copies, mergekit, tmp_path)
    assert (ours / "chat_template.jinja").read_text() == (theirs / "chat_template.jinja").read_text() == "{{ 2 }}"
