"""Writes models in memory as model directories, which `model_directory` reads."""

from pathlib import Path

from jaxgpt.data.tokenizer import Tokenizer
from jaxgpt.errors import require
from jaxgpt.model import GPT, Seq2Seq, params_of
from jaxgpt.seq2seq_config import field_of
from jaxgpt.storage import model_directory


def save(
    directory: str | Path,
    model: GPT | Seq2Seq,
    tokenizer: Tokenizer | None = None,
    target_tokenizer: Tokenizer | None = None,
) -> None:
    """Write `model` as the model directory `directory`, which all commands and `load` read.

    The weights keep their dtype and bits. An encoder-decoder reads its sources with `tokenizer`,
    and writes with `target_tokenizer` where that is another one.

    Raises:
        UserError: The directory is not empty, or a tokenizer has more ids than the model.
    """
    sizes = [(tokenizer, "encoder.vocab_size" if isinstance(model, Seq2Seq) else "vocab_size")]
    sizes.append((target_tokenizer or tokenizer, "vocab_size"))
    for one, name in sizes:
        vocab_size = field_of(model.config, name)
        require(
            one is None or one.vocab_size <= vocab_size,
            f"The tokenizer has {one.vocab_size if one else 0} ids, but {name} of the model is "
            f"{vocab_size}: it is another model's. Pass the right one, or none.",
        )
    model_directory.save(
        directory,
        model.config,
        params_of(model),
        tokenizer=tokenizer,
        target_tokenizer=target_tokenizer,
    )
