import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert.dialects import DIALECTS
from convert.files import checkpoints as files
from convert.files import hf_folder, saving, shards
from jaxgpt.errors import UserError
from jaxgpt.pytree import flatten
from tests.helpers import config_of, random_params

A, B = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones(4, np.float32)


def sharded(path: Path, weight_map: dict[str, str]) -> Path:
    saving.save(path / "model-1.safetensors", {"a": A})
    saving.save(path / "model-2.safetensors", {"b": B})
    index = path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index


def test_shards_are_one_checkpoint(tmp_path: Path) -> None:
    index = sharded(tmp_path, {"a": "model-1.safetensors", "b": "model-2.safetensors"})
    for path in (tmp_path, index):
        found = files.read(path)
        assert found.container == "safetensors in 2 shards"
        np.testing.assert_array_equal(found.tensors["a"].read(), A)
        np.testing.assert_array_equal(found.tensors["b"].read(), B)


def test_safetensors_are_preferred_and_the_others_named(tmp_path: Path) -> None:
    saving.save(tmp_path / "model.safetensors", {"a": A})
    (tmp_path / "pytorch_model.bin").write_bytes(b"never opened")
    (tmp_path / "config.json").write_text('{"n_head": 3}')
    found = files.read(tmp_path)
    assert found.path.name == "model.safetensors"
    assert found.aside == ("pytorch_model.bin",)
    assert found.config == {"n_head": 3}


def test_a_lone_checkpoint_in_a_folder_is_taken(tmp_path: Path) -> None:
    saving.save(tmp_path / "weights.safetensors", {"a": A})
    assert files.read(tmp_path).path.name == "weights.safetensors"


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        (
            {"a": "model-1.safetensors", "b": "../model-2.safetensors"},
            r"names \.\./model-2.safetensors; shards must be",
        ),
        ({"a": "/etc/passwd"}, "names /etc/passwd; shards must be in the folder"),
        ({"a": "model-3.safetensors"}, "names model-3.safetensors, which is not there"),
        (
            {"a": "model-2.safetensors", "b": "model-2.safetensors"},
            "says that a is in model-2.safetensors, but it",
        ),
        ({"a": 3}, "has no weight_map"),
        ("x", "has no weight_map"),
        ({}, "has no weight_map"),
    ],
)
def test_an_index_that_lies_is_refused(weight_map: dict, message: str, tmp_path: Path) -> None:
    sharded(tmp_path, weight_map)
    with pytest.raises(UserError, match=message):
        files.read(tmp_path)


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    index = sharded(tmp_path, {"a": "model-1.safetensors", "b": "model-2.safetensors"})
    (tmp_path / "model-2.safetensors").unlink()
    saving.save(tmp_path / "model-2.safetensors", {"a": A, "b": B})
    with pytest.raises(UserError, match="a is in more than one of its shards"):
        files.read(index)


def test_folders_and_configs_that_are_no_use(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="is a directory; in it should be one of .*It holds nothing"
    ):
        files.read(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(
        UserError, match="is a model directory; jaxgpt-convert to-torch makes a checkpoint of it"
    ):
        files.read(tmp_path)
    (tmp_path / "config.json").write_text("{")
    saving.save(tmp_path / "weights.safetensors", {"a": A})
    with pytest.raises(UserError, match="config.json is not JSON"):
        files.read(tmp_path).config  # noqa: B018
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(UserError, match="must hold a JSON object, but holds a list"):
        files.read(tmp_path).config  # noqa: B018
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match="config.json is not JSON"):
        hf_folder.config_beside(tmp_path / "weights.safetensors")


def opened(path: Path) -> int:
    """How many of the weights files in a folder this process has mapped or open."""
    links = [Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd")]
    files = {os.readlink(link) for link in links if link.is_symlink()}
    files |= {
        line.split(maxsplit=5)[5]
        for line in Path("/proc/self/maps").read_text().splitlines()
        if "/" in line
    }
    return sum(
        file.startswith(f"{path}/") and file.endswith((".safetensors", ".bin")) for file in files
    )


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux lists its mappings")
@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_one_shard_is_open_at_a_time_and_each_is_read_through_once(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Queries, keys and values lie in one matrix, and each parameter in all shards."""
    pytest.importorskip("torch", reason="torch is not installed")
    from convert import api, to_flax, to_torch

    params = random_params(config_of(DIALECTS["gpt2"], tied=True), np.dtype("float32"))
    state = to_torch(params, config_of(DIALECTS["gpt2"], tied=True), "gpt2")
    names, stem = [*state], "model" if suffix == "safetensors" else "pytorch_model"
    listed = {
        name: f"{stem}-{place * 4 // len(names) + 1}.{suffix}" for place, name in enumerate(names)
    }
    for file in {*listed.values()}:
        held = {name: state[name].numpy() for name in names if listed[name] == file}
        saving.save(tmp_path / f"{file}.{'pt' if suffix == 'bin' else suffix}", held)
        (tmp_path / f"{file}.{'pt' if suffix == 'bin' else suffix}").rename(tmp_path / file)
    (tmp_path / f"{stem}.{suffix}.index.json").write_text(json.dumps({"weight_map": listed}))
    assert opened(tmp_path) == 0
    opens, before = [], []
    open_one, read = shards.open_file, shards.Shards.read

    def counted(path: Path) -> Any:
        before.append(opened(tmp_path))
        opens.append(path.name)
        return open_one(path)

    def watched(own: Any, path: Path, name: str) -> np.ndarray:
        kept.append(read(own, path, name))  # what was read stays in use
        before.append(opened(tmp_path) - 1)
        return kept[-1]

    kept: list[np.ndarray] = []
    monkeypatch.setattr(shards, "open_file", counted)
    monkeypatch.setattr(shards.Shards, "read", watched)
    loaded = to_flax(tmp_path, num_heads=5)
    assert max(before) == 0
    assert opens[:4] == opens[-4:] == sorted({*listed.values()})
    assert (
        len(opens) < 16
    )  # headers, values, and a few that decide: embedding and head, positions, final norm
    for path, value in flatten(loaded.params).items():
        np.testing.assert_array_equal(value, flatten(params)[path])
    del loaded  # and with it the last shard, which it has open
    inspected = api.inspect(tmp_path, num_heads=5)
    opens.clear()
    api.loaded(inspected).save(tmp_path / "model")
    assert max(before) == 0
    if suffix == "bin":  # to open one is to check all of it
        assert opens == sorted({*listed.values()})
