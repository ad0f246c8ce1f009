import json
from pathlib import Path

import numpy as np
import pytest

from convert import files, folder
from jaxgpt.config import UserError

A, B = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones(4, np.float32)


def sharded(path: Path, weight_map: dict[str, str]) -> Path:
    files.write(path / "model-1.safetensors", {"a": A})
    files.write(path / "model-2.safetensors", {"b": B})
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
    files.write(tmp_path / "model.safetensors", {"a": A})
    (tmp_path / "pytorch_model.bin").write_bytes(b"never opened")
    (tmp_path / "config.json").write_text('{"n_head": 3}')
    found = files.read(tmp_path)
    assert found.path.name == "model.safetensors"
    assert found.aside == ("pytorch_model.bin",)
    assert found.config == {"n_head": 3}


def test_a_lone_checkpoint_in_a_folder_is_taken(tmp_path: Path) -> None:
    files.write(tmp_path / "weights.safetensors", {"a": A})
    assert files.read(tmp_path).path.name == "weights.safetensors"


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": "model-1.safetensors", "b": "../model-2.safetensors"}, r"names \.\./model-2.safetensors; a shard lies"),
        ({"a": "/etc/passwd"}, "names /etc/passwd; a shard lies in the same folder"),
        ({"a": "model-3.safetensors"}, "names model-3.safetensors, which is not there"),
        ({"a": "model-2.safetensors", "b": "model-2.safetensors"}, "says that a lies in model-2.safetensors, but it"),
        ({"a": 3}, "has no weight_map"),
        ("x", "has no weight_map"),
    ],
)
def test_an_index_that_lies_is_refused(weight_map: dict, message: str, tmp_path: Path) -> None:
    sharded(tmp_path, weight_map)
    with pytest.raises(UserError, match=message):
        files.read(tmp_path)


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    index = sharded(tmp_path, {"a": "model-1.safetensors", "b": "model-2.safetensors"})
    (tmp_path / "model-2.safetensors").unlink()
    files.write(tmp_path / "model-2.safetensors", {"a": A, "b": B})
    with pytest.raises(UserError, match="a lies in more than one of its shards"):
        files.read(index)


def test_folders_and_configs_that_are_no_use(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a directory; in it should be one of .*It holds nothing"):
        files.read(tmp_path)
    (tmp_path / "config.json").write_text("{")
    files.write(tmp_path / "weights.safetensors", {"a": A})
    with pytest.raises(UserError, match="config.json is not JSON"):
        files.read(tmp_path).config  # noqa: B018
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(UserError, match="should hold a JSON object, but holds a list"):
        files.read(tmp_path).config  # noqa: B018
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match="config.json is not JSON"):
        folder.config_beside(tmp_path / "weights.safetensors")
