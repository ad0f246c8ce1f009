"""A file read with its own class: the dialect and the fields with which both compute the same."""

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from jaxgpt.config import ModelConfig
from jaxgpt.errors import UserError

from ..api import Inspected, inspect
from ..detect.one_side import Detected
from ..detect.refusals import Asked, Inputs
from ..detect.report import Report
from ..detect.tensor_names import folded, is_mask, matrices
from ..files.checkpoints import Checkpoint
from ..foreign.config_objects import MEANING, SIZES
from ..foreign.constructor_args import Answers
from ..foreign.float64 import float64_by_default
from ..foreign.imports import folders
from ..foreign.peer import Peer, build, build_of
from ..names.config_words import as_written
from ..rows.fields import is_relevant
from ..rows.pair import of_decoder
from .equations import uncapped
from .readings import Reading, readings
from .search_cap import capped
from .settle import Settled, settle
from .subject import Differs, Parted, Solve, Subject, UnknownScores, furthest_of
from .trace import Seen

Read = Callable[[str], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Request:
    """What the user asked for: a class, its arguments, fields that are known, how to read."""

    torch: Any  # "module:Class" or a module
    torch_args: Mapping[str, Any]
    fields: Mapping[str, Any]
    dialect: str | None = None
    ignore_config: bool = False


@dataclasses.dataclass(frozen=True)
class File:
    """A file whose fields its class has settled."""

    inspected: Inspected
    peer: Peer


def settled(source: Checkpoint, request: Request) -> File:
    """Build the class, load `source` into it, and find the fields with which it agrees."""
    return settled_with(_peer(source, request), source, request)


def settled_with(peer: Peer, source: Checkpoint, request: Request) -> File:
    """The file in the first reading, and with the fields, with which the class agrees."""
    inputs = Inputs(
        {name: tensor.shape for name, tensor in source.tensors.items()},
        lambda name: source.tensors[name].read(),
        source.path,
        request.fields,
        {} if request.ignore_config else source.configs,
    )
    with float64_by_default():
        return _agreeing(inputs, peer, source, request)


def _agreeing(inputs: Inputs, peer: Peer, source: Checkpoint, request: Request) -> File:
    furthest: Parted | None = None
    runs: dict[tuple[int, int], Seen] = {}
    remaining = list(readings(inputs, peer, request.dialect, _hints(peer, request)))
    for solve in (uncapped, capped):  # a cap takes a search: first all that need none
        trials, remaining = remaining, []
        for reading in trials:
            try:
                found = settle(_subject(peer, reading.detected, inputs.read, runs, solve))
                detected = _with_fields(reading, found)
                if reading.missing:
                    raise reading.missing
                return File(Inspected(source, detected), peer)
            except Parted as parted:
                furthest = furthest_of(furthest, parted)
                if isinstance(parted, UnknownScores):
                    remaining.append(reading)
    if furthest:
        raise Differs.first_in(furthest.where, furthest.why, source.path)
    # No dialect fits, or something was asked for that the class does not say.
    inspect(source, dialect=request.dialect, ignore_config=request.ignore_config, **request.fields)
    raise UserError(f"{source.path}: running its class does not show which tensor is used where.")


def _subject(
    peer: Peer,
    detected: Detected,
    read: Read,
    runs: dict[tuple[int, int], Seen],
    solve: Solve,
) -> Subject:
    names = {new: old for old, new in peer.names.items()}
    config = detected.report.config
    dialect = of_decoder(detected.dialect, "Settling fields by running a class")
    return Subject(peer.module, names, dialect, config, read, runs, solve)


def _with_fields(reading: Reading, found: Settled) -> Detected:
    """What was detected, with the fields of the class in place of assumed ones and stand-ins."""
    detected, old = reading.detected, reading.detected.report
    counted = {n: v for n, v in reading.stand_ins.items() if n not in found.fields}
    given = {name: value for name, value in old.given.items() if name not in reading.stand_ins}
    known = {**old.read, **given}
    everything = {**found.fields, **counted, **known}
    for name, value in known.items():
        theirs = found.fields.get(name, value)
        if is_relevant(name, everything) and not _equal(theirs, value):
            raise Parted("the fields", f"{name} is {theirs!r} in the class and {value!r} otherwise")
    ours = {
        name: value
        for name, value in {**found.fields, **counted}.items()
        if name not in known and is_relevant(name, everything)
    }
    assumed = {n: v for n, v in old.assumed.items() if n not in everything}
    report = Report(old.read, given, assumed, found=ours)
    dialect = of_decoder(detected.dialect, "Settling fields by running a class")
    if everything["positions"] == "rotary":
        layout = found.fields["rotary_layout"]
        dialect = dataclasses.replace(dialect, layout=layout, backward=found.backward)
    return Detected(dialect, report)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, (int, float)):
        return abs(one - other) <= 1e-9 * abs(other)
    return bool(one == other)


def _hints(peer: Peer, request: Request) -> dict[str, int]:
    """Sizes that the class was built with, by their fields."""
    words: dict[str, Any] = {**peer.answers.defaults, **peer.answers.told, **request.torch_args}
    for module in (peer.module, *peer.module.children()):
        config = getattr(module, "config", None)
        own = {**(vars(config) if hasattr(config, "__dict__") else {}), **vars(module)}
        words = {**own, **words}
    hints = {MEANING.get(str(word).lower()): value for word, value in words.items()}
    return {
        name: value
        for name, value in hints.items()
        if name and isinstance(value, int) and not isinstance(value, bool) and value > 0
    }


def _peer(source: Checkpoint, request: Request) -> Peer:
    """The class with the weights of `source`."""
    shapes = {name: tensor.shape for name, tensor in source.tensors.items()}
    read = _read(source, request)
    known = {**_sizes(shapes), **read, **request.fields}
    known = {name: value for name, value in known.items() if name in SIZES}
    written = {} if request.ignore_config else as_written(source.configs)
    config = ModelConfig(**{**PLACEHOLDERS, **known})
    answers = Answers(config, read, written, request.torch_args, SIZES - known.keys())
    weights = {name for name, shape in shapes.items() if not is_mask(name, shape)}
    if isinstance(request.torch, torch.nn.Module):
        return build_of(copy.deepcopy(request.torch), answers, source, weights)
    home = folders(request.torch)
    return build(request.torch, answers, source, weights, home)


def _read(source: Checkpoint, request: Request) -> dict[str, Any]:
    """The fields that the file shows, if a dialect knows its names."""
    stand_ins: dict[str, Any] = {}
    how: dict[str, Any] = {"dialect": request.dialect, "ignore_config": request.ignore_config}
    while True:
        try:
            report = inspect(source, **how, **request.fields, **stand_ins).detected.report
            return {name: v for name, v in report.read.items() if name not in stand_ins}
        except Asked as asked:
            if asked.field in stand_ins or asked.field == "num_heads":
                return {}
            stand_ins[asked.field] = {"positions": "none", "context_length": 32}.get(asked.field)
        except UserError:
            return {}


PLACEHOLDERS = {"vocab_size": 2, "num_heads": 1}


def _sizes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """The sizes that names and shapes show without any dialect."""
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
    tables = [shape for shape in outside.values() if sizes.get("model_dim") in shape]
    if tables:
        first = next(iter(tables))
        sizes["vocab_size"] = max(first)
        if first[-1] != sizes["model_dim"] and first[0] == sizes["model_dim"]:
            sizes["vocab_size"] = first[1]
    return sizes
