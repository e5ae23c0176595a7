"""An adapter's update a few rows at a time: the same bits as the whole, whatever rows are asked for together."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from engine.checkpoints import Source, open_source
from tests.merging import threads

LINEAR, EMBEDDING = "model.layers.0.self_attn.q_proj.weight", "model.embed_tokens.weight"
SHAPES = {LINEAR: (203, 517), EMBEDDING: (301, 48)}
RANK, ALPHA = 24, 40


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def source(tmp_path_factory, request) -> Source:
    """A base in bfloat16 with an adapter on a linear layer and on the embedding, whose product PEFT transposes."""
    folder = tmp_path_factory.mktemp("adapter")
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int, dtype: torch.dtype = request.param) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    base = {name: drawn(*shape, dtype=torch.bfloat16) for name, shape in SHAPES.items()}
    base["lm_head.weight"] = drawn(301, 48)  # without it the embedding would be tied, and no adapter may change it
    save_file(base, folder / "model.safetensors")
    prefix = "base_model.model.model."
    factors = {
        f"{prefix}layers.0.self_attn.q_proj.lora_A.weight": drawn(RANK, 517),
        f"{prefix}layers.0.self_attn.q_proj.lora_B.weight": drawn(203, RANK),
        f"{prefix}embed_tokens.lora_embedding_A": drawn(RANK, 301),
        f"{prefix}embed_tokens.lora_embedding_B": drawn(48, RANK),
    }
    adapter = folder / "lora"
    adapter.mkdir()
    save_file(factors, adapter / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "target_modules": ["q_proj", "embed_tokens"]}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    return open_source(folder, adapter)


def expected(source: Source, name: str) -> torch.Tensor:
    """The update in float64."""
    assert source.adapter is not None
    b, a = (factor.double() for factor in source.adapter.factors(name))
    product = b @ a * (ALPHA / RANK)
    return product.T if name == EMBEDDING else product


@pytest.mark.parametrize("name", SHAPES)
def test_the_update_is_that_of_its_factors(source, name):
    assert source.adapter is not None
    found = source.adapter.delta(name)
    assert found.shape == SHAPES[name]
    torch.testing.assert_close(found.double(), expected(source, name), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("step", [1, 2, 7, 16, 17, 100, 1000])
def test_rows_are_those_of_the_whole_bit_for_bit(source, name, step):
    assert source.adapter is not None
    rows = SHAPES[name][0]
    whole = source.adapter.delta(name)
    with threads(2):
        parts = [source.adapter.rows(name, start, min(start + step, rows)) for start in range(0, rows, step)]
    assert torch.cat(parts).equal(whole)
    both = [source.rows(name, start, min(start + step, rows)) for start in range(0, rows, step)]
    assert torch.cat(both).equal(source.read(name))
    assert all(part.dtype == torch.float32 for part in both)


@pytest.mark.parametrize("name", SHAPES)
def test_the_update_is_added_to_the_base_in_float32(source, name):
    assert source.adapter is not None
    assert source.rows(name, 3, 40).equal(source.checkpoint.read(name)[3:40].float() + source.adapter.delta(name)[3:40])


@pytest.mark.parametrize("name", SHAPES)
def test_rows_may_be_written_to_without_changing_the_adapter(source, name):
    assert source.adapter is not None
    before = source.adapter.delta(name)
    source.adapter.rows(name, 0, 30).zero_()
    assert source.adapter.delta(name).equal(before)
