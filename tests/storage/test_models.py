"""A model built in Python is saved like every other model directory."""

from pathlib import Path

import jax
import numpy as np
import pytest

import jaxgpt
from jaxgpt.data.tokenizer import CharTokenizer
from jaxgpt.errors import UserError
from jaxgpt.model import cast
from jaxgpt.pytree import flatten
from tests.helpers import random_model, random_pair


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_a_model_is_restored_bit_for_bit(dtype: str, tmp_path: Path) -> None:
    with jax.enable_x64(True):
        model = cast(random_model("float64"), dtype)
    jaxgpt.save(tmp_path / "model", model)
    again = jaxgpt.load(tmp_path / "model")
    assert again.config == model.config
    before, after = flatten(jaxgpt.params_of(model)), flatten(jaxgpt.params_of(again))
    assert before.keys() == after.keys()
    for path, array in before.items():
        assert after[path].dtype == array.dtype == dtype
        assert np.asarray(after[path]).tobytes() == np.asarray(array).tobytes()


def test_tokenizers_are_saved_with_the_model(tmp_path: Path) -> None:
    pair = random_pair("float32")
    sizes = pair.config.encoder.vocab_size, pair.config.decoder.vocab_size
    letters = [chr(0x4E00 + i) for i in range(max(sizes) + 1)]
    source, target = (CharTokenizer(letters[:size]) for size in sizes)
    jaxgpt.save(tmp_path / "pair", pair, source, target)
    assert jaxgpt.load_tokenizer(tmp_path / "pair").vocab_size == sizes[0]
    assert isinstance(jaxgpt.load(tmp_path / "pair"), jaxgpt.Seq2Seq)
    for place, size in enumerate(sizes):
        tokenizers = [source, target]
        tokenizers[place] = CharTokenizer(letters[: size + 1])
        with pytest.raises(UserError, match=f"has {size + 1} ids, but .*vocab_size .* is {size}"):
            jaxgpt.save(tmp_path / "other", pair, *tokenizers)
    assert not (tmp_path / "other").exists()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    model = random_model("float32")
    jaxgpt.save(tmp_path / "model", model)
    with pytest.raises(UserError, match="exists and is not an empty directory"):
        jaxgpt.save(tmp_path / "model", model)
