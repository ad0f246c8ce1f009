"""Detects the ModelConfig of a decoder, or of one side of an encoder-decoder, by one dialect."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from jaxgpt.errors import UserError, in_a_row

from ..names.stated import stated_fields
from ..rows.arranged import ORDERS, arranged
from ..rows.dialect import Dialect
from ..rows.fields import is_relevant, usual_of
from ..rows.fit import Fit, fit
from ..rows.pair import AnyDialect
from .caveats import other_caveats
from .file_order import as_in_file
from .open_orders import open_orders
from .refusals import Inputs, Stranger, require_agreement, require_all
from .report import Report
from .rotary import head_width, read_tables, with_tables
from .shown import shown_fields
from .strangers import why_strange
from .values import Evidence, weigh

# Fields that give the sizes of axes.
HEADS = {"num_heads": "head", "num_kv_heads": "kv", "head_dim": "k"}


@dataclass(frozen=True)
class Detected:
    """The result of detection."""

    dialect: AnyDialect  # settled for this file
    report: Report


def detect_as(dialect: Dialect, inputs: Inputs) -> Detected:
    """Fit `dialect`, which need not be in the registry."""
    return detected_with(inputs, lambda sized: explained_by(sized, dialect))


def detected_with(
    inputs: Inputs, fitting: Callable[[Inputs], tuple[Fit, Evidence, Dialect]]
) -> Detected:
    """Detect the fields of a file by its tensors and configs, with the dialect of `fitting`."""
    path, shapes = inputs.path, inputs.shapes
    fitted, evidence, dialect = fitting(inputs)
    shown = shown_fields(fitted, evidence, dialect)
    stated = stated_fields(inputs.configs, dialect, path, inputs.given, shown)
    scaled = {name: statement.value for name, statement in stated.items()} | dict(inputs.given)
    scaling = scaled.get("rotary_scaling")
    rotation = read_tables(evidence.dialect, fitted.sizes, inputs.read, scaling)
    if width := head_width(inputs, fitted, rotation):
        inputs = replace(inputs, widths={"k": width})
        fitted, evidence, dialect = fitting(inputs)
    if problems := [*evidence.problems, *rotation.problems]:
        raise UserError(f"{path}: {in_a_row(problems)}.")
    evidence = with_tables(inputs, fitted, evidence, rotation)
    shown = {**shown_fields(fitted, evidence, dialect), **inputs.known}
    if "u" in fitted.sizes and "context_length" not in {*shown, *stated, *inputs.given}:
        shown["context_length"] = fitted.sizes["u"]
    require_agreement(inputs, evidence, shown, stated)
    read_fields = {field: value for field, (value, _) in stated.items()} | shown
    given_fields = {
        field: value for field, value in inputs.given.items() if field not in read_fields
    }
    known = {**read_fields, **given_fields}
    views = [flax for flax, _ in evidence.dialect.views]
    usual = usual_of(dialect.unsaid, views, known)
    for order in ORDERS.keys() - open_orders(evidence.dialect):
        usual.pop(order, None)
    if dialect.family and not known["norm_weight"]:
        del usual["norm_kind"]
    if dialect.layout:
        usual["rotary_layout"] = dialect.layout
    unsaid = {field: value for field, value in usual.items() if field not in known}
    if "num_heads" in unsaid:  # and what follows from their number
        derived = [field for field in HEADS if field in read_fields]
        unsaid |= {field: read_fields.pop(field) for field in derived}
    for irrelevant in inputs.irrelevant:
        read_fields.pop(irrelevant, None), unsaid.pop(irrelevant, None)
    fields = {**known, **unsaid}
    assumed = {field: value for field, value in unsaid.items() if is_relevant(field, fields)}
    require_all(inputs, fitted, fields)
    report = Report(read_fields, given_fields, assumed)
    try:
        config = report.config
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    others = other_caveats(tuple(assumed), evidence, inputs.configs)
    settled = replace(evidence.dialect, layout=config.rotary_layout)
    settled = as_in_file(settled, config, shapes, inputs.renamed)
    return Detected(settled, replace(report, other_caveats=others))


def fit_of(dialect: Dialect, inputs: Inputs) -> Fit:
    """Settle and fit `dialect`, in the reading that explains most of the file."""
    fits = []
    for reading in inputs.names.nearest(dialect):
        fits.append(_fit_of_reading(arranged(reading, inputs.given), inputs))
        if not fits[-1].problems:
            return fits[-1]
    return min(fits, key=lambda fitted: len(fitted.problems) - fitted.claimed)


def _fit_of_reading(dialect: Dialect, inputs: Inputs) -> Fit:
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
    """The fit and the evidence for `dialect`; raises Stranger if it does not explain the file."""
    fitted = fit_of(dialect, inputs)
    if fitted.problems:
        raise Stranger(lambda: why_strange(inputs, [fitted]))
    return fitted, weigh(fitted.dialect, fitted.sizes, inputs.read), fitted.dialect
