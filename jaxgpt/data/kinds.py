"""The two kinds of prepared directory: text, and pairs of a source and a target."""

from pathlib import Path
from typing import Literal, NamedTuple

from jaxgpt.errors import UserError, require
from jaxgpt.file_names import ABOUT
from jaxgpt.system.json_files import DAMAGED, read_json


class Kind(NamedTuple):
    """A kind of prepared data, in words for messages."""

    content: str
    model: str  # that is trained on it
    command: str  # that makes it


KINDS = {
    "text": Kind("text", "a decoder", "jaxgpt prepare TEXT... --out DIR"),
    "pairs": Kind(
        "pairs of source and target", "an encoder-decoder", "jaxgpt prepare FILE.tsv --out DIR"
    ),
}


def data_kind(path: Path) -> Literal["text", "pairs"]:
    """What the prepared directory `path` holds."""
    require(
        (path / ABOUT).is_file(),
        f"{path} is not a prepared directory, for it has no {ABOUT}. `jaxgpt prepare TEXT... "
        f"--out {path}` makes it, from text, from pairs, or from nanoGPT's train.bin and val.bin.",
    )
    kind = read_json(path / ABOUT).get("kind", "text")
    if kind == "text" or kind == "pairs":
        return kind
    raise UserError(
        f"{path / ABOUT} says that the data are {kind!r}; there are: {', '.join(KINDS)}. {DAMAGED}"
    )


def require_kind(path: Path, needed: Literal["text", "pairs"]) -> None:
    """Require that the prepared directory `path` holds the kind `needed`."""
    here, other = KINDS[data_kind(path)], KINDS[needed]
    require(
        here == other,
        f"{path} holds {here.content}, on which {here.model} is trained. What is asked for here is "
        f"{other.content}, for {other.model}: `{other.command}` makes it.",
    )
