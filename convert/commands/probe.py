"""jaxgpt-convert probe: ranks what a checkpoint leaves open by the loss on a text."""

import json as json_format
from pathlib import Path

from jaxgpt.system.stages import working

from .options import Assignments, DialectName, File, IgnoreConfig, Json, model_fields

NOTHING_FITS = 3  # exit code


def probe(
    file: File,
    /,
    *,
    text: str | None = None,
    ids: str | None = None,
    tokenizer: Path | None = None,
    assignments: Assignments = (),
    dialect: DialectName = None,
    ignore_config: IgnoreConfig = False,
    json: Json = False,
) -> int:
    """Rank the values of fields that a checkpoint leaves open, such as where the norms are, by
    their loss on text like that of the training. Exit code 3 when none fits the text.

    Args:
        text: A text, as jaxgpt prepare takes it: a file, a folder, - for standard input, and so on.
        ids: Instead of a text: a list such as "0 29 59", or a file of such numbers, .npy, or
            nanoGPT's .bin.
        tokenizer: For a text: a tokenizer.json, a list of characters as JSON, or nanoGPT's
            meta.pkl.
    """
    from ..probing.probe import probe as rank
    from ..tokens.encode_text import read_ids
    from . import ranking_page

    with working(f"probing {file}") as stage:
        ranking = rank(
            file,
            text=None if text is None else _content(text),
            ids=None if ids is None else read_ids(ids),
            tokenizer=tokenizer,
            dialect=dialect,
            ignore_config=ignore_config,
            tell=lambda progress: stage(progress, 0),
            **model_fields(assignments),
        )
    if json:
        print(json_format.dumps(ranking.as_dict(), indent=2))
    else:
        ranking_page.show(ranking)
    return 0 if ranking.fits else NOTHING_FITS


def _content(text: str) -> str:
    """The text of the sources that `--text` names."""
    from jaxgpt.data.sources import documents

    return "".join(piece.text + (piece.end or "") for piece in documents([text]))
