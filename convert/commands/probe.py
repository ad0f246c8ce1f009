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
    """Find fields that a checkpoint leaves open by their loss on a text.

    The text should be of the kind that the model was trained on. The exit code is 3 if no values of
    the fields fit it.

    Args:
        text: The text, as for jaxgpt prepare: a file, a folder, - for standard input, and so on.
        ids: Ids instead of a text: a list such as "0 29 59", or a file of such numbers, .npy, or
            nanoGPT's .bin.
        tokenizer: The tokenizer of the text: a tokenizer.json, a list of characters as JSON, or
            nanoGPT's meta.pkl.
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
