"""A small model directory for the commands that read one."""

from pathlib import Path

import pytest

from jaxgpt.config import ModelConfig
from jaxgpt.data.tokenizer import CharTokenizer
from jaxgpt.model import GPT, params_of
from jaxgpt.storage import model_directory

LETTERS = "\nabcdefgh"
CONFIG = ModelConfig(12, 16, 12, 2, 2)  # three ids more than letters


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory with a tokenizer, and beside it `bare`, without."""
    folder = tmp_path_factory.mktemp("models")
    params = params_of(GPT(CONFIG, seed=3))
    params["head"]["kernel"] = params["head"]["kernel"] * 30  # else all is equally likely
    model_directory.save(folder / "model", CONFIG, params, tokenizer=CharTokenizer(LETTERS))
    model_directory.save(folder / "bare", CONFIG, params)
    return folder / "model"
