"""Checkpoint folders: what is refused and how it is said, adapters, and the writer's bytes."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from engine.checkpoints import TensorSpec, open_adapter, open_checkpoint, open_source, write_checkpoint
from engine.errors import PlanError, StageError
from tests.tiny import tiny_adapter

TENSORS = {
    "model.embed_tokens.weight": torch.arange(12.0).reshape(4, 3),
    "model.layers.0.mlp.weight": torch.arange(6, dtype=torch.bfloat16).reshape(2, 3),
    "model.norm.weight": torch.ones(3, dtype=torch.float16),
    "step": torch.tensor(7),
}


def make(folder: Path, tensors: dict[str, torch.Tensor] = TENSORS, **config: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    save_file(tensors, folder / "model.safetensors")
    return folder


def shard(folder: Path, *files: str) -> Path:
    """Spread TENSORS over two files with an index whose entries are `files`."""
    make(folder)
    (folder / "model.safetensors").unlink()
    names = list(TENSORS)
    for file, part in zip(("a.safetensors", "b.safetensors"), (names[:2], names[2:]), strict=True):
        save_file({name: TENSORS[name] for name in part}, folder / file)
    weight_map = {name: files[number // 2] for number, name in enumerate(names)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def refused(folder: Path) -> str:
    with pytest.raises(PlanError) as caught:
        open_checkpoint(folder)
    assert str(folder) in caught.value.message
    return str(caught.value)


def test_tensors_are_read_as_they_are(tmp_path):
    for checkpoint in (
        open_checkpoint(make(tmp_path / "one")),
        open_checkpoint(shard(tmp_path / "two", "a.safetensors", "b.safetensors")),
    ):
        assert sorted(checkpoint.tensors) == sorted(TENSORS)
        for name, tensor in TENSORS.items():
            read = checkpoint.read(name)
            assert read.equal(tensor)
            assert read.dtype == tensor.dtype
            assert checkpoint.tensors[name].shape == tuple(tensor.shape)


def test_opening_needs_no_torch(tmp_path):
    make(tmp_path / "model")
    code = (
        "import sys; from pathlib import Path; from engine.checkpoints import open_source; import engine.executor\n"
        f"assert len(open_source(Path({str(tmp_path / 'model')!r})).checkpoint.tensors) == 4\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_tensors_off_their_alignment_are_read(tmp_path):
    folder = make(tmp_path / "model")
    header = json.dumps({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    header += b" " * (1 - len(header) % 2)  # an odd length
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + struct.pack("<2f", 1.5, -2.0))
    assert open_checkpoint(folder).read("x").tolist() == [1.5, -2.0]


def test_a_missing_config_is_refused(tmp_path):
    folder = make(tmp_path / "model")
    (folder / "config.json").unlink()
    assert "has no config.json" in refused(folder)


def test_a_broken_config_is_refused(tmp_path):
    folder = make(tmp_path / "model")
    (folder / "config.json").write_text("{")
    assert "is no valid JSON" in refused(folder)


def test_quantised_weights_are_refused(tmp_path):
    assert "quantised" in refused(make(tmp_path / "model", quantization_config={"quant_method": "gptq"}))


def test_no_weights_and_pickled_weights_are_refused(tmp_path):
    folder = make(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    assert "has no weights" in refused(folder)
    (folder / "pytorch_model.bin").write_bytes(b"")
    assert "pickle (pytorch_model.bin)" in refused(folder)


def test_a_missing_shard_is_refused(tmp_path):
    assert "lacks the shard c.safetensors" in refused(shard(tmp_path / "model", "a.safetensors", "c.safetensors"))


def test_a_shard_without_its_tensor_is_refused(tmp_path):
    assert "lacks the tensor model.norm.weight" in refused(shard(tmp_path / "model", "a.safetensors", "a.safetensors"))


@pytest.mark.parametrize("kept", [4, 100, -1])
def test_a_truncated_file_is_refused(tmp_path, kept):
    folder = make(tmp_path / "model")
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:kept])
    text = refused(folder)
    assert "is not a whole safetensors file" in text
    assert f"the file has {len(content[:kept])}" in text


def test_bytes_after_the_last_tensor_are_refused(tmp_path):
    folder = make(tmp_path / "model")
    with (folder / "model.safetensors").open("ab") as stream:
        stream.write(b"\0")
    assert "its header describes" in refused(folder)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [-2], "data_offsets": [0, -8]},
        {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]},
        {"dtype": "F32", "shape": [2]},
        {"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]},
        [],
    ],
)
def test_a_forged_header_is_refused(tmp_path, entry):
    folder = make(tmp_path / "model")
    header = json.dumps({"x": entry}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    refused(folder)


@pytest.mark.parametrize(
    "entry", ["../outside.safetensors", "sub/../../outside.safetensors", "/etc/hosts", "link.safetensors"]
)
def test_weights_outside_the_folder_are_refused(tmp_path, entry):
    save_file(TENSORS, tmp_path / "outside.safetensors")
    folder = shard(tmp_path / "model", entry, entry)
    (folder / "link.safetensors").symlink_to(tmp_path / "outside.safetensors")
    text = refused(folder)
    assert repr(entry) in text
    assert "outside the folder" in text


def test_links_of_the_hub_cache_are_followed(tmp_path):
    folder = make(tmp_path / "models--org--name" / "snapshots" / "0a1b")
    blob = tmp_path / "models--org--name" / "blobs" / "ffff"
    blob.parent.mkdir()
    (folder / "model.safetensors").rename(blob)
    (folder / "model.safetensors").symlink_to(Path("..") / ".." / "blobs" / "ffff")
    assert len(open_checkpoint(folder).tensors) == 4


def test_a_tied_output_matrix_is_one_tensor_or_an_error(tmp_path):
    embedding = TENSORS["model.embed_tokens.weight"]
    same = make(tmp_path / "same", {**TENSORS, "lm_head.weight": embedding.clone()}, tie_word_embeddings=True)
    assert sorted(open_checkpoint(same).tensors) == sorted(TENSORS)
    other = make(tmp_path / "other", {**TENSORS, "lm_head.weight": embedding + 1}, tie_word_embeddings=True)
    assert "`tie_word_embeddings: true`" in refused(other)
    assert "lm_head.weight" in open_checkpoint(make(other, load_file(other / "model.safetensors"))).tensors


def test_a_resident_source_reads_its_files_once(tmp_path):
    folder = make(tmp_path / "model")
    source = open_source(folder, resident=True)
    first = source.read("model.layers.0.mlp.weight")
    (folder / "model.safetensors").write_bytes(b"")
    again = source.read("model.layers.0.mlp.weight")
    assert again.dtype == torch.float32
    assert again.equal(first)


@pytest.fixture
def adapter(tiny_models, tmp_path):
    return tiny_adapter(tmp_path / "adapter", tiny_models["base"], target_modules=["q_proj"])


def edited(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, **changes}))


@pytest.mark.parametrize(
    "changes",
    [
        {"use_dora": True},
        {"bias": "all"},
        {"modules_to_save": ["lm_head"]},
        {"fan_in_fan_out": True},
        {"init_lora_weights": "pissa"},
        {"peft_type": "IA3"},
    ],
)
def test_an_adapter_that_is_no_plain_lora_is_refused(tiny_models, adapter, changes):
    edited(adapter, **changes)
    (key,) = changes
    with pytest.raises(PlanError, match=f"no plain LoRA: `{key}: "):
        open_source(tiny_models["base"], adapter)


def test_an_adapter_of_another_rank_is_refused(tiny_models, adapter):
    edited(adapter, r=8)
    with pytest.raises(PlanError, match=r"factors have the shapes \[4, 32\] and \[32, 4\]"):
        open_source(tiny_models["base"], adapter)


@pytest.mark.parametrize(
    ("rename", "message"),
    [
        (("q_proj", "query"), "has no tensor model.layers.0.self_attn.query.weight"),
        (("base_model.model.", ""), "changes model.layers.0"),
        (("lora_B.weight", "bias"), "lacks its partner"),
        (("lora_A.weight", "lora_C.weight"), "which is no pair of LoRA matrices"),
    ],
)
def test_a_key_that_matches_nothing_is_refused(tiny_models, adapter, rename, message):
    tensors = load_file(adapter / "adapter_model.safetensors")
    renamed = {name.replace(*rename): tensor.clone() for name, tensor in tensors.items()}
    save_file(renamed, adapter / "adapter_model.safetensors")
    with pytest.raises(PlanError, match=message):
        open_adapter(adapter, open_checkpoint(tiny_models["base"]).tensors)


def test_an_adapter_with_changed_embeddings_is_refused(tiny_models, adapter):
    tensors = load_file(adapter / "adapter_model.safetensors")
    embedding = load_file(tiny_models["base"] / "model.safetensors")["model.embed_tokens.weight"]
    key = "base_model.model.model.embed_tokens.weight"
    for change, is_refused in ((0.0, False), (1.0, True)):
        save_file({**tensors, key: embedding + change}, adapter / "adapter_model.safetensors")
        if not is_refused:
            assert open_source(tiny_models["base"], adapter).adapter
            continue
        with pytest.raises(PlanError, match=f"holds {key}"):
            open_source(tiny_models["base"], adapter)


def test_a_pickled_adapter_is_refused(tiny_models, adapter):
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(PlanError, match=r"pickle \(adapter_model.bin\)"):
        open_source(tiny_models["base"], adapter)


SPECS = tuple(TensorSpec(name, str(t.dtype).removeprefix("torch."), tuple(t.shape)) for name, t in TENSORS.items())


@pytest.mark.parametrize(("limit", "files"), [(10**9, 1), (60, 2), (1, 4)])
def test_what_is_written_is_read_by_safetensors(tmp_path, limit, files):
    (tmp_path / "config.json").write_text("{}")
    sizes: list[int] = []
    write_checkpoint(tmp_path, SPECS, TENSORS.__getitem__, max_shard_bytes=limit, written=sizes.append)
    assert sizes == [48, 12, 6, 8]
    names = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    single = ["model.safetensors"]
    assert names == (
        single if files == 1 else [f"model-{i:05d}-of-{files:05d}.safetensors" for i in range(1, files + 1)]
    )
    found = {name: tensor for file in names for name, tensor in load_file(tmp_path / file).items()}
    assert all(found[name].equal(tensor) for name, tensor in TENSORS.items())
    with safe_open(tmp_path / names[0], framework="pt") as opened:
        assert opened.metadata() == {"format": "pt"}
    reopened = open_checkpoint(tmp_path)
    assert all(reopened.read(name).equal(tensor) for name, tensor in TENSORS.items())


def test_the_same_tensors_give_the_same_bytes(tmp_path):
    contents = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        write_checkpoint(tmp_path / name, SPECS, TENSORS.__getitem__, max_shard_bytes=60)
        contents.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert contents[0] == contents[1]


def test_old_weights_are_not_written_over(tmp_path):
    write_checkpoint(tmp_path, SPECS, TENSORS.__getitem__)
    with pytest.raises(StageError, match="holds weights already"):
        write_checkpoint(tmp_path, SPECS, TENSORS.__getitem__)


def test_a_full_disk_is_said_before_anything_is_written(tmp_path):
    size = shutil.disk_usage(tmp_path).total
    with pytest.raises(StageError, match="has room for"):
        write_checkpoint(tmp_path, [TensorSpec("x", "float32", (size,))], TENSORS.__getitem__)
    assert not list(tmp_path.iterdir())
