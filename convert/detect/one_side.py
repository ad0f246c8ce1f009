"""Detects the ModelConfig of a decoder, or of one side of an encoder-decoder, given a dialect."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from jaxgpt.errors import UserError, in_a_row

from ..names.stated import Statement, stated_fields
from ..rows.arranged import ORDERS, arranged
from ..rows.dialect import Dialect
from ..rows.fields import is_relevant, usual_of
from ..rows.fit import Fit, fit
from ..rows.pair import AnyDialect
from .errors import UnknownTensors
from .file_order import as_in_file
from .inputs import Inputs
from .open_orders import open_orders
from .refusals import require_agreement, require_all
from .report import Report, other_caveats
from .rotary import has_complex_table, head_width, read_tables, with_tables
from .shown import shown_fields
from .unknown_tensors import why_unknown
from .values import Evidence, weigh

# Fields that give the sizes of axes.
HEADS = {"num_heads": "head", "num_kv_heads": "kv", "head_dim": "k"}
# The weights of norms that divide by the standard deviation have these names, from tutorials.
OF_DEVIATIONS = (".alpha", ".a_2")


@dataclass(frozen=True)
class Detected:
    """The result of detection."""

    dialect: AnyDialect  # settled for this file
    report: Report


def detect_as(dialect: Dialect, inputs: Inputs) -> Detected:
    """Fit `dialect`, which need not be in the registry."""
    return detected_with(inputs, lambda sized: explained_by(sized, dialect))


@dataclass(frozen=True)
class _Explained:
    """A file with the dialect that explains it, its rotary tables included."""

    inputs: Inputs
    fit: Fit
    evidence: Evidence
    dialect: Dialect
    stated: dict[str, Statement]  # fields that configs state


def detected_with(
    inputs: Inputs, fitting: Callable[[Inputs], tuple[Fit, Evidence, Dialect]]
) -> Detected:
    """Detect the fields of a file by its tensors and configs, with the dialect of `fitting`."""
    explained = _explain(inputs, fitting)
    inputs, evidence = explained.inputs, explained.evidence
    read, given = _known_fields(explained)
    usual = _usual_fields(inputs, evidence, explained.dialect, {**read, **given})
    unsaid = {name: value for name, value in usual.items() if name not in {**read, **given}}
    if "num_heads" in unsaid:  # the fields that follow from the number of heads are assumed too
        derived = [name for name in HEADS if name in read]
        unsaid |= {name: read.pop(name) for name in derived}
    for name in inputs.irrelevant:
        read.pop(name, None)
        unsaid.pop(name, None)
    fields = {**read, **given, **unsaid}
    require_all(inputs, explained.fit, fields)
    assumed = {name: value for name, value in unsaid.items() if is_relevant(name, fields)}
    caveats = other_caveats(tuple(assumed), evidence, inputs.configs)
    report = Report(read, given, assumed, caveats)
    try:
        config = report.config
    except UserError as error:
        raise UserError(f"{inputs.path}: {error}") from None
    settled = replace(evidence.dialect, layout=config.rotary_layout)
    return Detected(as_in_file(settled, config, inputs.shapes, inputs.renamed), report)


def _explain(
    inputs: Inputs, fitting: Callable[[Inputs], tuple[Fit, Evidence, Dialect]]
) -> _Explained:
    """Fit the dialect of `fitting`, a second time if rotary tables show the width of a head."""
    fitted, evidence, dialect = fitting(inputs)
    shown = shown_fields(fitted, evidence, dialect)
    stated = stated_fields(inputs.configs, dialect, inputs.path, inputs.given, shown)
    values = {name: statement.value for name, statement in stated.items()} | dict(inputs.given)
    scaling = values.get("rotary_scaling")
    rotation = read_tables(evidence.dialect, fitted.sizes, inputs.read, scaling)
    if width := head_width(inputs, fitted, rotation):
        inputs = replace(inputs, widths={"k": width})
        fitted, evidence, dialect = fitting(inputs)
    if problems := [*evidence.problems, *rotation.problems]:
        raise UserError(f"{inputs.path}: {in_a_row(problems)}.")
    evidence = with_tables(inputs, fitted, evidence, rotation)
    return _Explained(inputs, fitted, evidence, dialect, stated)


def _known_fields(explained: _Explained) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields that tensors show or configs state, and the other ones that are given.

    Raises UserError if they contradict one another.
    """
    inputs, fitted, stated = explained.inputs, explained.fit, explained.stated
    shown = shown_fields(fitted, explained.evidence, explained.dialect) | dict(inputs.known)
    if "u" in fitted.sizes and "context_length" not in {*shown, *stated, *inputs.given}:
        shown["context_length"] = fitted.sizes["u"]
    require_agreement(inputs, explained.evidence, shown, stated)
    read = {name: statement.value for name, statement in stated.items()} | shown
    return read, {name: value for name, value in inputs.given.items() if name not in read}


def _usual_fields(
    inputs: Inputs, evidence: Evidence, dialect: Dialect, known: Mapping[str, Any]
) -> dict[str, Any]:
    """The values of the dialect's classes for fields that may be missing, given those `known`."""
    views = [flax for flax, _ in evidence.dialect.views]
    usual = usual_of(dialect.unsaid, views, known)
    for order in ORDERS.keys() - open_orders(evidence.dialect):
        usual.pop(order, None)
    if dialect.family and not known["norm_weight"]:
        del usual["norm_kind"]
    own = inputs.renamed.names if inputs.renamed else inputs.shapes
    if dialect.family and known["norm_bias"] and any(name.endswith(OF_DEVIATIONS) for name in own):
        usual |= {"norm_std": "unbiased_plus_eps", "norm_eps": 1e-6}
    if dialect.layout:
        usual["rotary_layout"] = dialect.layout
    elif has_complex_table(evidence.dialect):  # classes view neighbours as one complex number
        usual["rotary_layout"] = "interleaved"
    return usual


def fit_of(dialect: Dialect, inputs: Inputs) -> Fit:
    """Settle and fit `dialect`, in the variant that explains most of the file."""
    fits = []
    for variant in inputs.names.nearest(dialect):
        fits.append(_fit_of_variant(arranged(variant, inputs.given), inputs))
        if not fits[-1].problems:
            return fits[-1]
    return min(fits, key=lambda fitted: len(fitted.problems) - fitted.claimed)


def _fit_of_variant(dialect: Dialect, inputs: Inputs) -> Fit:
    """Settle and fit `dialect`, with the head counts that are stated or given."""
    try:
        unsettled = {*inputs.given, "context_length"}  # before the tensors show it
        stated = stated_fields(inputs.configs, dialect, inputs.path, unsettled)
    except UserError:
        stated = {}  # raised again for the dialect that is chosen
    stated.pop("head_dim", None)  # a wrong one would make every tensor look wrong
    values = {
        **{field: value for field, value in dialect.unsaid.items() if field in HEADS},
        **{field: value for field, (value, _) in stated.items()},
        **inputs.given,
    }
    sizes = {axis: values[field] for field, axis in HEADS.items() if field in values}
    sizes |= inputs.widths
    if not dialect.grouped:
        sizes |= {"group": 1}
        sizes.pop("kv", None)
    return fit(inputs.names.settled(dialect), inputs.shapes, sizes)


def explained_by(inputs: Inputs, dialect: Dialect) -> tuple[Fit, Evidence, Dialect]:
    """The fit and the evidence for `dialect`; UnknownTensors if it does not explain the file."""
    fitted = fit_of(dialect, inputs)
    if fitted.problems:
        raise UnknownTensors(lambda: why_unknown(inputs, [fitted]))
    return fitted, weigh(fitted.dialect, fitted.sizes, inputs.read), fitted.dialect
