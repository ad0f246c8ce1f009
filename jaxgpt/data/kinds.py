"""The kinds of prepared directory: text, pairs of a source and a target, prompts and answers."""

from pathlib import Path
from typing import Literal, NamedTuple

from jaxgpt.errors import UserError, require
from jaxgpt.file_names import ABOUT
from jaxgpt.system.json_files import DAMAGED, read_json


class Kind(NamedTuple):
    """A kind of prepared data, in words for messages."""

    content: str
    model: str  # the kind of model that is trained on it
    command: str  # the command that makes it


KINDS = {
    "text": Kind("text", "a decoder", "jaxgpt prepare TEXT... --out DIR"),
    "answers": Kind("prompts and answers", "a decoder", "jaxgpt prepare FILE.jsonl --out DIR"),
    "pairs": Kind(
        "pairs of source and target", "an encoder-decoder", "jaxgpt prepare FILE.tsv --out DIR"
    ),
}


def data_kind(path: Path) -> Literal["text", "answers", "pairs"]:
    """The kind of data in the prepared directory `path`."""
    require(
        (path / ABOUT).is_file(),
        f"{path} is not a prepared directory: it has no {ABOUT}. `jaxgpt prepare TEXT... "
        f"--out {path}` makes it, from text, pairs, prompts and answers, or from "
        "nanoGPT's train.bin and val.bin.",
    )
    kind = read_json(path / ABOUT).get("kind", "text")
    if kind == "text" or kind == "answers" or kind == "pairs":
        return kind
    raise UserError(
        f"{path / ABOUT} says that the data are {kind!r}, but data are one of {', '.join(KINDS)}. "
        f"{DAMAGED}"
    )


def require_model(path: Path, needed: Literal["text", "pairs"]) -> None:
    """Require that the data in `path` are of the kind `needed`, for the model that trains on it."""
    here, other = KINDS[data_kind(path)], KINDS[needed]
    require(
        here.model == other.model,
        f"{path} holds {here.content}, for training {here.model}; but {other.model} is trained on "
        f"{other.content}: `{other.command}` prepares such data.",
    )
