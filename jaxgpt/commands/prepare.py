"""jaxgpt prepare: text to token files."""

from pathlib import Path
from typing import Annotated, Literal

import tyro

Texts = Annotated[
    tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="TEXT...", help_behavior_hint="")
]


def prepare(
    text: Texts,
    /,
    *,
    out: Path,
    tokenizer: str = "char",
    vocab_size: int = 8192,
    field: str = "text",
    val: float = 0.1,
    errors: Literal["strict", "replace"] = "strict",
) -> None:
    """Turn text into token files to train on.

    Args:
        text: Text files, folders, patterns, - for standard input, .jsonl or .parquet files, hf:NAME
            for a data set of the datasets library, nanoGPT's train.bin and val.bin, or python-docs,
            which comes with Python.
        out: The directory to write; must not exist, or be empty.
        tokenizer: char, byte, bpe, or a file or folder with a tokenizer, such as nanoGPT's
            meta.pkl, which is also used if it is next to its train.bin.
        vocab_size: Number of ids of a new bpe tokenizer.
        field: The field of JSONL, parquet and data sets that holds the text.
        val: The fraction of the text, from its end, that is set aside for validation.
        errors: Treatment of text that is not UTF-8: strict stops, replace inserts a replacement
            character.
    """
    from jaxgpt.data.prepare import prepare as prepare_data

    dataset = prepare_data(
        text, out, tokenizer=tokenizer, vocab_size=vocab_size, field=field, val=val, errors=errors
    )
    print(
        f"{out}: {len(dataset.train):,} tokens to train on, {len(dataset.val):,} to validate, "
        f"{dataset.vocab_size} ids"
    )
