"""A small model directory for the commands that read one."""

from pathlib import Path

import pytest

from jaxgpt.config import ModelConfig
from jaxgpt.data.tokenizer import CharTokenizer
from jaxgpt.model import GPT, Seq2Seq, params_of
from jaxgpt.seq2seq_config import Seq2SeqConfig
from jaxgpt.storage import model_directory

LETTERS = "\nabcdefgh"
CONFIG = ModelConfig(12, 16, 12, 2, 2)  # three more ids than letters
# The last two ids of the decoder are those that targets begin and end with.
PAIR = Seq2SeqConfig(
    ModelConfig(9, 14, 12, 2, 2), ModelConfig(11, 16, 12, 2, 2, cross_attention=True)
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory with a tokenizer; next to it, `bare` is the same without one."""
    folder = tmp_path_factory.mktemp("models")
    params = params_of(GPT(CONFIG, seed=3))
    params["head"]["kernel"] = params["head"]["kernel"] * 30  # else all is equally likely
    model_directory.save(folder / "model", CONFIG, params, tokenizer=CharTokenizer(LETTERS))
    model_directory.save(folder / "bare", CONFIG, params)
    return folder / "model"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder-decoder with one tokenizer; next to it, `bare` has none, and `alone` is its
    decoder."""
    folder = tmp_path_factory.mktemp("pairs")
    params = params_of(Seq2Seq(PAIR.encoder, PAIR.decoder, seed=3))
    params["decoder"]["head"]["kernel"] = params["decoder"]["head"]["kernel"] * 60
    model_directory.save(folder / "pair", PAIR, params, tokenizer=CharTokenizer(LETTERS))
    model_directory.save(folder / "bare", PAIR, params)
    model_directory.save(folder / "alone", PAIR.decoder, params["decoder"])
    return folder / "pair"
