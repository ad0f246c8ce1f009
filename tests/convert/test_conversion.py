"""A converted file is written while its parameters are made, with the same result and errors."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import convert
from convert import api, conversion
from convert.files import saving
from jaxgpt.errors import UserError
from jaxgpt.pytree import flatten
from jaxgpt.storage.model_directory import ModelDirectory
from tests.helpers import tensors_of


@pytest.fixture
def file(tmp_path: Path) -> Path:
    saving.save(tmp_path / "in" / "model.safetensors", tensors_of("gpt2"))
    return tmp_path / "in" / "model.safetensors"


def converted(file: Path, **how: Any) -> Any:
    return api.loaded(api.inspect(file, num_heads=5), **how)


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_the_directory_is_that_of_the_parameters_in_memory(
    dtype: str | None, file: Path, tmp_path: Path
) -> None:
    in_memory = convert.to_flax(file, num_heads=5, dtype=dtype)
    in_memory.save(tmp_path / "a")
    converted(file, dtype=dtype).save(tmp_path / "b")
    a, b = (ModelDirectory(tmp_path / name) for name in "ab")
    assert a.about == b.about
    ours, theirs = flatten(b.params()), flatten(in_memory.params)
    assert list(ours) == list(flatten(a.params()))
    for path, array in ours.items():
        assert array.dtype == theirs[path].dtype
        assert array.tobytes() == theirs[path].tobytes() == a.read(path).tobytes()


def test_changed_parameters_are_saved(file: Path, tmp_path: Path) -> None:
    loaded = converted(file)
    loaded.params["final_norm"]["scale"][:] = 7
    loaded.save(tmp_path / "m")
    assert (ModelDirectory(tmp_path / "m").read("final_norm/scale") == 7).all()


def test_all_values_that_are_not_finite_are_named(tmp_path: Path) -> None:
    tensors = {name: array.copy() for name, array in tensors_of("gpt2").items()}
    for name in ("transformer.ln_f.bias", "transformer.h.1.attn.c_attn.weight"):
        tensors[name].reshape(-1)[:3] = np.inf
    saving.save(tmp_path / "model.safetensors", tensors)
    with pytest.raises(UserError) as at_once:
        convert.to_flax(tmp_path / "model.safetensors", num_heads=5)
    loaded = converted(tmp_path / "model.safetensors")
    with pytest.raises(UserError) as while_writing:
        loaded.save(tmp_path / "out" / "m")
    assert str(while_writing.value) == str(at_once.value)
    assert "transformer.ln_f.bias has 3" in str(at_once.value)
    assert "c_attn.weight has 3" in str(at_once.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_nothing_is_left_of_an_interrupted_conversion(
    error: BaseException, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    original: Callable[[Any, str], np.ndarray] = conversion._Reader.read

    def interrupted(self: Any, name: str) -> np.ndarray:
        read.append(name)
        if len(read) == 12:
            raise error
        return original(self, name)

    monkeypatch.setattr(conversion._Reader, "read", interrupted)
    with pytest.raises(type(error) if isinstance(error, OSError) else error):  # type: ignore[arg-type]
        converted(file).save(tmp_path / "out" / "m")
    assert len(read) == 12
    assert not (tmp_path / "out").exists()
