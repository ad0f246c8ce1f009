"""The class of a file, built with the sizes that the file shows, and loaded with its weights."""

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from jaxgpt.config import ModelConfig
from jaxgpt.errors import UserError
from jaxgpt.seq2seq_config import (
    ENCODER,
    AnyConfig,
    Seq2SeqConfig,
    as_options,
)

from ..api import inspect
from ..detect.errors import Asked
from ..files.checkpoints import Checkpoint
from ..foreign.config_objects import MEANING, SIZES
from ..foreign.constructor_args import Answers
from ..foreign.imports import folders
from ..foreign.peer import Peer, build, build_of
from ..names.config_words import as_written
from ..names.pair_config import side_of, without_side
from ..names.roles import ROLES
from ..names.tensor_names import count_words, folded, is_mask, matrices


@dataclasses.dataclass(frozen=True)
class Request:
    """The user's request: a class, its arguments, known fields, and options for reading."""

    torch: Any  # "module:Class" or a module
    torch_args: Mapping[str, Any]
    fields: Mapping[str, Any]
    dialect: str | None = None
    ignore_config: bool = False


def flat(fields: Mapping[str, Any]) -> dict[str, Any]:
    """`fields` with those of an encoder, which have a dict of their own, as `encoder.FIELD`."""
    encoder = fields.get("encoder") or {}
    own = {name: value for name, value in fields.items() if name != "encoder"}
    return {**own, **{f"{ENCODER}{name}": value for name, value in encoder.items()}}


def hints(peer: Peer, request: Request) -> dict[str, int]:
    """Sizes that the class was built with, by their fields."""
    words: dict[str, Any] = {**peer.answers.defaults, **peer.answers.told, **request.torch_args}
    for module in (peer.module, *peer.module.children()):
        config = getattr(module, "config", None)
        own = {**(vars(config) if hasattr(config, "__dict__") else {}), **vars(module)}
        words = {**own, **words}
    meant = [(name, value) for word, value in words.items() for name in _meanings(str(word))]
    return {
        name: value
        for name, value in meant
        if isinstance(value, int) and not isinstance(value, bool) and value > 0
    }


def heads_of_parts(module: torch.nn.Module) -> dict[str, int]:
    """The numbers of heads that the parts of an encoder-decoder have as attributes, by side."""
    found: dict[str, int] = {}
    for name, part in module.named_modules():
        sides = (side_of(f"{each}_") for each in name.split("."))
        side = next(filter(None, sides), None)
        field = f"{ENCODER}num_heads" if side == "encoder" else "num_heads"
        for word, value in vars(part).items():
            if side and _says_heads(word) and isinstance(value, int) and value > 0:
                found.setdefault(field, value)
    return found


def _says_heads(word: str) -> bool:
    return word == "h" or MEANING.get(word.lower()) == "num_heads"


def _meanings(word: str) -> Iterator[str]:
    """Yield the fields that `word` means: of both sides, if it does not say which."""
    word = word.lower()
    if (name := MEANING.get(word)) is not None:
        yield from (name, f"{ENCODER}{name}")
    elif (name := MEANING.get(without_side(word))) is not None:
        yield f"{ENCODER}{name}" if side_of(word) == "encoder" else name


def peer_of(source: Checkpoint, request: Request) -> Peer:
    """The class with the weights of `source`."""
    shapes = {name: tensor.shape for name, tensor in source.tensors.items()}
    config, read = _read(source, request)
    written = {} if request.ignore_config else as_written(source.configs)
    if isinstance(config, Seq2SeqConfig):
        known = {**read, **flat(request.fields)}
        sizes = {*SIZES, *(f"{ENCODER}{name}" for name in SIZES)}
    else:
        known = {**_sizes(shapes), **read, **_heads_given(request), **request.fields}
        sizes = {*SIZES}
        known = {name: value for name, value in known.items() if name in SIZES}
        config = ModelConfig(**{**PLACEHOLDERS, **known})
    unknown = frozenset(sizes - known.keys())
    answers = Answers(config, read, written, request.torch_args, unknown)
    weights = {name for name, shape in shapes.items() if not is_mask(name, shape)}
    if isinstance(request.torch, torch.nn.Module):
        return build_of(copy.deepcopy(request.torch), answers, source, weights)
    home = folders(request.torch)
    return build(request.torch, answers, source, weights, home)


def _read(source: Checkpoint, request: Request) -> tuple[AnyConfig | None, dict[str, Any]]:
    """The config of an encoder-decoder, and the fields that a file shows, if a dialect knows it."""
    stand_ins: dict[str, Any] = {}
    how: dict[str, Any] = {"dialect": request.dialect, "ignore_config": request.ignore_config}
    while True:
        try:
            fields = as_options({**_heads_given(request), **flat(request.fields), **stand_ins})
            report = inspect(source, **how, **fields).detected.report
            read = {name: v for name, v in report.read.items() if name not in stand_ins}
            derived = {name for name in read if "num_heads" in stand_ins and _of_heads(name)}
            read = {name: value for name, value in read.items() if name not in derived}
            pair = isinstance(report.config, Seq2SeqConfig)
            # For a decoder, fields that depend on the heads are left to the measurements.
            if not pair and "num_heads" in stand_ins:
                return None, {n: v for n, v in read.items() if n in SIZES and not _of_heads(n)}
            return report.config if pair else None, read
        except Asked as asked:
            if asked.field in stand_ins:
                return None, {}
            values = {"positions": "none", "context_length": 32}
            if asked.candidates:
                stand_ins[asked.field] = asked.candidates[0]
            else:
                stand_ins[asked.field] = values.get(asked.field)
        except UserError:
            return None, {}


def _heads_given(request: Request) -> dict[str, int]:
    """The sizes of heads, which few files show, among the arguments given for the class."""
    meant = {MEANING.get(word.lower(), ""): value for word, value in request.torch_args.items()}
    return {name: value for name, value in meant.items() if _of_heads(name)}


def _of_heads(name: str) -> bool:
    return name.removeprefix(ENCODER) in ("num_heads", "num_kv_heads", "head_dim")


PLACEHOLDERS = {"vocab_size": 2, "num_heads": 1}
POSITIONS = ROLES["positions"][-1]  # prefixes of words in the name of a position table


def _sizes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """The sizes that names and shapes show, without a dialect."""
    _, lists, _ = folded(dict(shapes), "layer", lambda block: len(block) > 2)
    stems = tuple(lists)
    outside = {
        n: s for n, s in matrices(dict(shapes)).items() if not (stems and n.startswith(stems))
    }
    sizes: dict[str, int] = {}
    if len(lists) == 1:
        sizes["num_blocks"] = len(next(iter(lists.values())))
        (stem,) = stems
        vectors = [s[0] for n, s in shapes.items() if n.startswith(f"{stem}0.") and len(s) == 1]
        widths = {s[-1] for s in outside.values()}
        common = [width for width in vectors if width in widths] or sorted(widths)
        if common:
            sizes["model_dim"] = max(common, key=common.count)
    tables = [
        shape
        for name, shape in outside.items()
        if sizes.get("model_dim") in shape and len(shape) == 2 and not count_words(name, POSITIONS)
    ]
    if tables:
        first = next(iter(tables))
        sizes["vocab_size"] = max(first)
        if first[-1] != sizes["model_dim"] and first[0] == sizes["model_dim"]:
            sizes["vocab_size"] = first[1]
    return sizes
