"""A file read with its own class: the dialect and the fields with which both compute the same."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

from jaxgpt.errors import UserError
from jaxgpt.seq2seq_config import Seq2SeqConfig, field_of

from ..api import Inspected, inspect
from ..detect.inputs import Inputs
from ..detect.one_side import Detected
from ..detect.report import Report
from ..files.checkpoints import Checkpoint
from ..foreign.float64 import float64_by_default
from ..foreign.padding import Hidden, hidden_ids
from ..foreign.peer import Peer
from ..foreign.with_context import Caller
from ..names.unsupported import reasons
from ..rows.fields import is_relevant_in
from ..rows.pair import rotating, sides
from .built_class import Request, flat, hints, peer_of
from .equations import uncapped
from .readings import Reading, readings
from .recorded import NotRun
from .runs import Runs
from .search_cap import capped
from .settle import Settled, settle
from .subject import Differs, OtherHeads, Parted, Solve, Subject, UnknownScores, furthest_of
from .trace import Seen


@dataclasses.dataclass(frozen=True)
class File:
    """A file whose fields its class has settled."""

    inspected: Inspected
    peer: Peer
    hidden: Hidden  # ids that the class hides


@dataclasses.dataclass
class Callers:
    """How a class is called, the ids that it hides, and its recorded runs; for all readings."""

    made: dict[tuple[int, int, bool, bool], Seen] = dataclasses.field(default_factory=dict)
    known: dict[tuple[bool, bool], tuple[Caller, Hidden]] = dataclasses.field(default_factory=dict)

    def of(self, peer: Peer, detected: Detected) -> tuple[Caller, Hidden]:
        """The caller for a class as it is read in `detected`, and the ids that it hides."""
        config = detected.report.config
        key = isinstance(config, Seq2SeqConfig), field_of(config, "cross_attention")
        if key not in self.known:
            run = Caller(peer.module)
            hidden = hidden_ids(peer, detected.dialect, config, run)
            self.known[key] = run, hidden
        return self.known[key]


def settled(source: Checkpoint, request: Request) -> File:
    """Build the class, load `source` into it, and find the fields with which it agrees."""
    return settled_with(peer_of(source, request), source, request)


def settled_with(peer: Peer, source: Checkpoint, request: Request) -> File:
    """The file in the first reading, and with the fields, with which the class agrees."""
    inputs = Inputs(
        {name: tensor.shape for name, tensor in source.tensors.items()},
        lambda name: source.tensors[name].read(),
        source.path,
        flat(request.fields),
        {} if request.ignore_config else source.configs,
    )
    with float64_by_default():
        return _agreeing(inputs, peer, source, request)


def _agreeing(inputs: Inputs, peer: Peer, source: Checkpoint, request: Request) -> File:
    furthest: Parted | None = None
    callers = Callers()
    right: dict[str, int] = {}  # numbers of heads that measurements have shown
    sizes = hints(peer, request)
    remaining: Iterable[Reading] = readings(inputs, peer, request.dialect, sizes, right)
    not_run: list[NotRun] = []
    for solve in (uncapped, capped):  # a cap takes a search: first all that need none
        unknown: list[Reading] = []
        for reading in _while_it_runs(remaining, not_run):
            try:
                found = _settled(peer, reading.detected, inputs, callers, solve)
                hidden = callers.of(peer, reading.detected)[1]
                notes = [*hidden.caveats, *peer.answers.caveats, *found.notes]
                detected = _with_fields(reading, found, notes)
                if reading.missing:
                    raise reading.missing
                return File(Inspected(source, detected), peer, hidden)
            except Parted as parted:
                furthest = furthest_of(furthest, parted)
                if isinstance(parted, OtherHeads):
                    right[parted.field] = parted.heads
                if isinstance(parted, UnknownScores):
                    unknown.append(reading)
        remaining = unknown
    if furthest:
        raise Differs.first_in(furthest.where, furthest.why, source.path)
    if not_run and not reasons(inputs.shapes):
        raise not_run[0]
    # No dialect fits, or a field is needed that the class does not show.
    inspect(source, dialect=request.dialect, ignore_config=request.ignore_config, **request.fields)
    raise UserError(f"{source.path}: running its class does not show which tensor is used where.")


def _while_it_runs(remaining: Iterable[Reading], not_run: list[NotRun]) -> Iterator[Reading]:
    """Yield the readings in `remaining`, up to those for which the class does not run."""
    try:
        yield from remaining
    except NotRun as error:
        not_run.append(error)


def _settled(
    peer: Peer, detected: Detected, inputs: Inputs, callers: Callers, solve: Solve
) -> Settled:
    """The fields of the class as it is read in `detected`; of both sides, where there are two."""
    config = detected.report.config
    names = {new: old for old, new in peer.names.items()}
    run, hidden = callers.of(peer, detected)
    runs = Runs(peer.module, names, config, run, hidden, callers.made)
    both = sides(detected.dialect, config)
    last = Subject(runs, both[-1].dialect, both[-1].config, inputs.read, solve)
    if len(both) == 1:
        memory = runs.pairs_of_tokens.other if last.config.cross_attention else None
        return settle(dataclasses.replace(last, memory=memory))
    first = Subject(runs, both[0].dialect, both[0].config, inputs.read, solve, decoder=last)
    encoder = settle(first)
    decoder = settle(dataclasses.replace(last, memory=encoder.memory))
    fields = {f"{both[0].field_prefix}{name}": value for name, value in encoder.fields.items()}
    backward = {**encoder.backward, **decoder.backward}
    return Settled({**decoder.fields, **fields}, backward, decoder.notes)


def _with_fields(reading: Reading, found: Settled, notes: list[str]) -> Detected:
    """The detected fields, with those of the class in place of assumed ones and stand-ins."""
    detected, old = reading.detected, reading.detected.report
    counted = {n: v for n, v in reading.stand_ins.items() if n not in found.fields}
    given = {name: value for name, value in old.given.items() if name not in reading.stand_ins}
    known = {**old.read, **given}
    everything = {**found.fields, **counted, **known}
    for name, value in known.items():
        theirs = found.fields.get(name, value)
        if is_relevant_in(name, everything) and not _equal(theirs, value):
            raise Parted("the fields", f"{name} is {theirs!r} in the class and {value!r} otherwise")
    ours = {
        name: value
        for name, value in {**found.fields, **counted}.items()
        if name not in known and is_relevant_in(name, everything)
    }
    assumed = {n: v for n, v in old.assumed.items() if n not in everything}
    report = Report(old.read, given, assumed, notes, found=ours)
    rotations = {
        prefix: (found.fields[f"{prefix}rotary_layout"], backward)
        for prefix, backward in found.backward.items()
        if everything[f"{prefix}positions"] == "rotary"
    }
    return Detected(rotating(detected.dialect, rotations), report)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, (int, float)):
        return abs(one - other) <= 1e-9 * abs(other)
    return bool(one == other)
