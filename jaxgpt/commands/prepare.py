"""jaxgpt prepare: text or pairs to token files."""

from pathlib import Path
from typing import Annotated, Any, Literal

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
    max_tokens: int | None = None,
) -> None:
    """Turn text, or pairs of a source and a target, into token files to train on.

    Args:
        text: Text files, folders, patterns, - for standard input, .jsonl or .parquet files, hf:NAME
            for a data set of the datasets library, nanoGPT's train.bin and val.bin, or python-docs,
            which comes with Python. JSONL with prompt and answer, or with messages, is prepared so
            that a model learns the answers. For pairs: .tsv files with source, tab, target on each
            line, or the built-in dates; with a --field of two names also .jsonl and .parquet files,
            hf:NAME, and standard input with lines as in .tsv files.
        out: The directory to write; must not exist, or be empty.
        tokenizer: char, byte, bpe, or a file or folder with a tokenizer, such as nanoGPT's
            meta.pkl, which is also used if it is next to its train.bin.
        target_tokenizer: A tokenizer for the targets of pairs alone; without it one is made from
            sources and targets together.
        vocab_size: Number of ids of a new bpe tokenizer.
        field: The field of JSONL, parquet and data sets that holds the text, or for pairs two:
            source,target. Dots lead into nested fields: translation.en,translation.de.
        val: The fraction of the text, from its end, that is set aside for validation.
        errors: What to do with text that is not UTF-8: strict stops, replace inserts a replacement
            character.
        max_length: Leave out pairs with more ids than this on a side, or prompts and answers with
            more in all.
        max_tokens: Take only this number of tokens, from the beginning of a text, so that a data
            set may be larger than the disk.
    """
    from jaxgpt.data.answers import recognise
    from jaxgpt.data.pair_sources import fields_of

    options: dict[str, Any] = {
        "tokenizer": tokenizer,
        "vocab_size": vocab_size,
        "val": val,
        "errors": errors,
    }
    if fields := fields_of(text, field):
        _require_unset("max-tokens", max_tokens, "text, and these are pairs")
        options |= {"target_tokenizer": target_tokenizer, "max_length": max_length}
        print(_pairs(text, out, fields=fields, **options))
        return
    none = (
        "which these sources are not (pairs are .tsv files, dates, or records with two fields: "
        "--field SOURCE,TARGET)"
    )
    _require_unset("target-tokenizer", target_tokenizer, f"pairs, {none}")
    if recognise(text, field):
        _require_unset("max-tokens", max_tokens, "text, and these are prompts and answers")
        print(_answers(text, out, max_length=max_length, **options))
        return
    _require_unset("max-length", max_length, f"pairs, and for prompts and answers, {none}")
    print(_text(text, out, field=field, max_tokens=max_tokens, **options))


def _require_unset(name: str, value: object, kind: str) -> None:
    from jaxgpt.errors import require

    require(value is None, f"--{name} is for {kind}. Leave it out.")


def _pairs(sources: tuple[str, ...], out: Path, **options: Any) -> str:
    """Prepare pairs; return a line about them."""
    from jaxgpt.data.prepare_pairs import prepare_pairs

    pairs = prepare_pairs(sources, out, **options)
    return (
        f"{out}: {len(pairs.train):,} pairs to train on, {len(pairs.val):,} to validate, "
        f"{pairs.left_out:,} left out, {pairs.source_vocab_size} ids in sources, "
        f"{pairs.target_vocab_size} in targets"
    )


def _answers(sources: tuple[str, ...], out: Path, **options: Any) -> str:
    """Prepare prompts and answers; return a line about them."""
    from jaxgpt.data.prepare_answers import prepare_answers
    from jaxgpt.file_names import ABOUT
    from jaxgpt.system.json_files import read_json

    data = prepare_answers(sources, out, **options)
    assert data.examples is not None
    train, val = data.examples["train"], data.examples["val"]
    return (
        f"{out}: {len(train):,} examples to train on, {len(val):,} to validate, "
        f"{read_json(out / ABOUT)['left_out']:,} left out, {data.vocab_size} ids"
    )


def _text(sources: tuple[str, ...], out: Path, **options: Any) -> str:
    """Prepare text; return a line about it."""
    from jaxgpt.data.prepare import prepare as prepare_text

    dataset = prepare_text(sources, out, **options)
    return (
        f"{out}: {len(dataset.train):,} tokens to train on, {len(dataset.val):,} to validate, "
        f"{dataset.vocab_size} ids"
    )
