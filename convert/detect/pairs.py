"""Detects the dialects of both sides of an encoder-decoder, and the fields of each."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from jaxgpt.errors import UserError
from jaxgpt.seq2seq_config import ENCODER

from ..dialects import PAIRS
from ..names.pair_config import configs_of_side
from ..names.unsupported import reasons
from ..rows import whole
from ..rows.arranged import arranged
from ..rows.dialect import Dialect
from ..rows.fields import OF_DECODERS
from ..rows.fit import Fit, meanings
from ..rows.kinds import EMBEDDING, Alias, Kind, Row, is_embedding, is_embedding_or_copy
from ..rows.pair import Pair, changed, without_embedding
from ..rows.pattern import LabelWords, Match, Pattern
from .errors import UnknownTensors
from .inputs import Inputs
from .one_side import Detected, detected_with, explained_by, fit_of
from .refusals import require_supported_kinds
from .report import Report
from .unknown_tensors import with_problems
from .values import same_bits

CROSS, SELF = "blocks/cross_attn/qkv/kernel", "blocks/attn/qkv/kernel"
# Given fields that apply to one side only.
OWN = ("vocab_size", "num_blocks", *OF_DECODERS)


@dataclass(frozen=True)
class Split:
    """A pair tried on a file: the tensors of each side, and how they fit its rows."""

    encoder: Fit
    decoder: Fit
    unknown: list[str]  # names that neither side has a row for

    @property
    def problems(self) -> list[str]:
        """What is wrong with the tensors, if the file is of this pair."""
        return [
            *(f"{name} is unknown" for name in self.unknown),
            *(f"{problem}, in the encoder" for problem in self.encoder.problems),
            *self.decoder.problems,
        ]

    @property
    def claimed(self) -> int:
        return self.encoder.claimed + self.decoder.claimed


def pair_of(inputs: Inputs) -> Pair | None:
    """The pair in the registry that a config names, or that explains all tensors; None if none."""
    kinds = require_supported_kinds(inputs)
    stated = [pair for pair in PAIRS.values() if kinds & pair.says.get("model_type", {}).keys()]
    if stated or kinds:
        return stated[0] if stated else None
    tried = [(pair, _split(pair, inputs)) for pair in _plausible(inputs)]
    fitting = [(pair, split) for pair, split in tried if not split.problems]
    classes = [(pair, split) for pair, split in fitting if not pair.family] or fitting
    if not classes:
        return None
    results = [_meaning(split) for _, split in classes]
    if any(result != results[0] for result in results):
        names = " and ".join(pair.name for pair, _ in classes)
        raise UserError(
            f"{inputs.path}: its tensors fit the dialects {names}; choose one with --dialect."
        )
    return classes[0][0]


def is_part_of_pair(inputs: Inputs) -> bool:
    """Whether the file holds only some tensors of a known class: a family must not read it."""
    return any(not (pair.family or _split(pair, inputs).unknown) for pair in _plausible(inputs))


def _plausible(inputs: Inputs) -> list[Pair]:
    """The pairs with a row of cross-attention, and one of an encoder's blocks, for the tensors."""
    names = inputs.shapes
    return [
        pair
        for pair in PAIRS.values()
        if (pair.family or not inputs.renamed)
        and _has_row(pair.decoder, CROSS, names)
        and _has_row(pair.encoder, SELF, names)
    ]


def _has_row(dialect: Dialect, path: str, names: Collection[str]) -> bool:
    matchers = list(_matchers(dialect, lambda row: isinstance(row, Row) and row.flax.name == path))
    return any(matcher(name) for name in names for matcher in matchers)


def _matchers(
    dialect: Dialect, wanted: Callable[[Kind], bool] = lambda row: True
) -> Iterator[Callable[[str], Match | None]]:
    """Yield a matcher of names for each row that is `wanted`, in all variants of `dialect`."""
    seen: set[tuple[str, LabelWords]] = set()
    for variant in (dialect, *dialect.variants):
        words = variant.label_words
        for row in filter(wanted, variant.rows):
            key = row.torch.text, words if row.torch.labels else ()
            if key not in seen:
                seen.add(key)
                yield row.torch.matcher(words)


def _claimed(dialect: Dialect, names: Iterable[str]) -> list[str]:
    """The `names` that match a row of `dialect`."""
    names, known = list(names), dialect.claims
    if unknown := [name for name in names if name not in known]:
        matchers = list(_matchers(dialect))
        for name in unknown:
            known[name] = any(matcher(name) for matcher in matchers)
    return [name for name in names if known[name]]


def _sides(pair: Pair, inputs: Inputs) -> tuple[Inputs, Inputs, list[str]]:
    """The inputs of the encoder and of the decoder, and the names that belong to neither."""
    encoder, decoder = (_claimed(side, inputs.shapes) for side in (pair.encoder, pair.decoder))
    unknown = [name for name in inputs.shapes if name not in {*encoder, *decoder}]
    one, two = (
        replace(
            inputs,
            shapes={name: inputs.shapes[name] for name in names},
            configs=configs_of_side(inputs.configs, side),
            given=given,
            side=prefix,
        )
        for names, side, given, prefix in (
            (encoder, "encoder", {}, ENCODER),
            (decoder, "decoder", inputs.given, ""),
        )
    )
    return one, two, unknown


def _split(pair: Pair, inputs: Inputs) -> Split:
    encoder, decoder, unknown = _sides(pair, inputs)
    return Split(fit_of(pair.encoder, encoder), fit_of(pair.decoder, decoder), unknown)


def _meaning(split: Split) -> Any:
    return [meanings(fit.dialect, fit.sizes) for fit in (split.encoder, split.decoder)]


def detect_pair(pair: Pair, inputs: Inputs, of_encoder: Mapping[str, Any]) -> Detected:
    """Fit `pair` to a file; `of_encoder` are given fields of the encoder.

    Where nothing says otherwise, the encoder is taken to be like its decoder.
    """
    split = _split(pair, inputs)
    if split.problems:
        raise UnknownTensors(lambda: _why_unfit(pair, split, inputs))
    pair, shared = _with_shared_embedding(pair, split, inputs)
    encoder, decoder, _ = _sides(pair, inputs)
    ours = detected_with(decoder, lambda sized: explained_by(sized, pair.decoder))
    alike = {name: value for name, value in inputs.given.items() if name not in OWN}
    if alike.get("positions") == "learned":  # whether an encoder has a table, its tensors show
        del alike["positions"]
    variants = [
        replace(each, unsaid={**each.unsaid, **alike}, variants=())
        for each in (arranged(variant, alike) for variant in (pair.encoder, *pair.encoder.variants))
    ]
    usual = replace(variants[0], variants=tuple(variants[1:]))
    encoder = replace(
        encoder,
        given=of_encoder,
        known={"vocab_size": ours.report.config.vocab_size} if shared else {},
    )
    theirs = detected_with(encoder, lambda sized: explained_by(sized, usual))
    report = _joined(theirs.report, ours.report)
    try:
        config = report.config
    except UserError as error:
        raise UserError(f"{inputs.path}: {error}") from None
    both = _as_pair(pair, theirs, ours)
    names = {*whole.order_of(both, config)}
    in_file = inputs.renamed.names if inputs.renamed else inputs.shapes
    order = tuple(name for name in in_file if name in names)
    return Detected(replace(both, order=order), report)


def _as_pair(pair: Pair, encoder: Detected, decoder: Detected) -> Pair:
    assert isinstance(encoder.dialect, Dialect)
    assert isinstance(decoder.dialect, Dialect)
    return replace(pair, encoder=encoder.dialect, decoder=decoder.dialect)


def _joined(encoder: Report, decoder: Report) -> Report:
    """The report on both sides, with the encoder's fields as `encoder.FIELD`."""

    def joined(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
        return {**ours, **{f"{ENCODER}{name}": value for name, value in theirs.items()}}

    return Report(
        joined(encoder.read, decoder.read),
        joined(encoder.given, decoder.given),
        joined(encoder.assumed, decoder.assumed),
        list(dict.fromkeys([*decoder.other_caveats, *encoder.other_caveats])),
    )


def _with_shared_embedding(pair: Pair, split: Split, inputs: Inputs) -> tuple[Pair, bool]:
    """`pair` with a shared embedding as the decoder's alone; and whether it is shared.

    The sides share it if both have one tensor for it, or two with the same bits.
    """
    theirs, ours = (_embedding(fit.dialect) for fit in (split.encoder, split.decoder))
    if theirs != ours and not same_bits(inputs.read(theirs), inputs.read(ours)):
        return pair, False
    tables = [
        row.torch.view().name for row in split.encoder.dialect.rows if is_embedding_or_copy(row)
    ]
    claimed = _claimed(pair.decoder, tables)
    copies = [
        Alias(Pattern.parse(f"{name} : v d"), own=EMBEDDING)
        for name in tables
        if name not in claimed
    ]
    decoder = changed(pair.decoder, lambda rows: (*rows, *copies))
    return replace(pair, encoder=without_embedding(pair.encoder), decoder=decoder), True


def _embedding(dialect: Dialect) -> str:
    """The name of the token embedding in the settled `dialect`."""
    return next(row for row in dialect.rows if is_embedding(row)).torch.view().name


def why_no_pair(inputs: Inputs) -> str:
    """The error for an encoder-decoder that no pair explains; "" if the file is of no such kind."""
    if reasons(inputs.shapes):
        return ""
    plausible = _plausible(inputs)
    if not plausible:
        return ""
    tried = [(pair, _split(pair, inputs)) for pair in plausible]
    nearest = min(tried, key=lambda each: len(each[1].problems) - each[1].claimed)
    return _why_unfit(*nearest, inputs)


def _why_unfit(pair: Pair, split: Split, inputs: Inputs) -> str:
    return (
        f"{inputs.path}: its {len(inputs.shapes)} tensors do not fit {pair.name} ({pair.about}), "
        f"{with_problems(split.problems)}"
    )
