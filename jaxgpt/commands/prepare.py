"""jaxgpt prepare: text or pairs to token files."""

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
    target_tokenizer: str | None = None,
    vocab_size: int = 8192,
    field: str = "text",
    val: float = 0.1,
    errors: Literal["strict", "replace"] = "strict",
    max_length: int | None = None,
) -> None:
    """Turn text, or pairs of a source and a target, into token files to train on.

    Args:
        text: Text files, folders, patterns, - for standard input, .jsonl or .parquet files, hf:NAME
            for a data set of the datasets library, nanoGPT's train.bin and val.bin, or python-docs,
            which comes with Python. For pairs: .tsv files with source, tab, target on each line, or
            the built-in dates; with a --field of two names also .jsonl and .parquet files, hf:NAME,
            and standard input with lines as in .tsv files.
        out: The directory to write; must not exist, or be empty.
        tokenizer: char, byte, bpe, or a file or folder with a tokenizer, such as nanoGPT's
            meta.pkl, which is also used if it is next to its train.bin.
        target_tokenizer: A tokenizer for the targets of pairs alone; without it one is made from
            sources and targets together.
        vocab_size: Number of ids of a new bpe tokenizer.
        field: The field of JSONL, parquet and data sets that holds the text, or for pairs two:
            source,target. A field in a field has a dot: translation.en,translation.de.
        val: The fraction of the text, from its end, that is set aside for validation.
        errors: Treatment of text that is not UTF-8: strict stops, replace inserts a replacement
            character.
        max_length: Leave out pairs with more ids than this on a side.
    """
    from jaxgpt.data.pair_sources import fields_of
    from jaxgpt.data.prepare import prepare as prepare_text
    from jaxgpt.data.prepare_pairs import prepare_pairs
    from jaxgpt.errors import require

    if fields := fields_of(text, field):
        pairs = prepare_pairs(
            text,
            out,
            tokenizer=tokenizer,
            target_tokenizer=target_tokenizer,
            vocab_size=vocab_size,
            fields=fields,
            val=val,
            errors=errors,
            max_length=max_length,
        )
        print(
            f"{out}: {len(pairs.train):,} pairs to train on, {len(pairs.val):,} to validate, "
            f"{pairs.left_out:,} left out, {pairs.source_vocab_size} ids in sources, "
            f"{pairs.target_vocab_size} in targets"
        )
        return
    for name, value in (("target-tokenizer", target_tokenizer), ("max-length", max_length)):
        require(
            value is None,
            f"--{name} is for pairs, and these are text. Pairs are .tsv files, dates, or records "
            "with two fields: --field SOURCE,TARGET.",
        )
    dataset = prepare_text(
        text, out, tokenizer=tokenizer, vocab_size=vocab_size, field=field, val=val, errors=errors
    )
    print(
        f"{out}: {len(dataset.train):,} tokens to train on, {len(dataset.val):,} to validate, "
        f"{dataset.vocab_size} ids"
    )
