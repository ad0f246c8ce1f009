"""Detects the dialect and the ModelConfig of a file, and reports the source of each field."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jaxgpt.config import ModelConfig
from jaxgpt.errors import UserError, in_a_row
from jaxgpt.settings import check

from ..dialects import DIALECTS, named
from ..names.stated import stated_fields
from ..rows.dialect import Dialect
from ..rows.fields import is_relevant, usual_of
from ..rows.fit import Fit, fit, meanings
from ..rows.resolve import settle
from .by_structure import propose
from .candidates import candidates, plausible
from .caveats import other_caveats
from .file_order import as_in_file
from .partial import is_part
from .refusals import (
    Configs,
    Inputs,
    Shapes,
    Stranger,
    require_agreement,
    require_all,
    why_strange,
)
from .report import Report
from .rotary import head_width, read_tables, with_tables
from .shown import shown_fields
from .values import Evidence, weigh

# Fields that give the sizes of axes.
HEADS = {"num_heads": "head", "num_kv_heads": "kv", "head_dim": "k"}


@dataclass(frozen=True)
class Detected:
    """The result of detection."""

    dialect: Dialect  # settled for this file
    fit: Fit
    report: Report


def detect(
    shapes: Shapes,
    read: Callable[[str], np.ndarray],
    path: object,
    name: str | None = None,
    given: Mapping[str, Any] | None = None,
    configs: Configs | None = None,
) -> Detected:
    """Detect the dialect of a file, or fit the dialect `name`, and its ModelConfig.

    `shapes` maps tensor names to shapes and `read` returns a tensor by name; `path` is for errors.
    `given` are fields of ModelConfig that the caller sets, `configs` those stored with the tensors.
    """
    inputs = Inputs(shapes, read, path, given or {}, configs or {})
    check(ModelConfig, inputs.given, "ModelConfig")
    return _detected(inputs, lambda sized: _named(sized, name) if name else _of_registry(sized))


def detect_as(dialect: Dialect, inputs: Inputs) -> Detected:
    """Fit `dialect`, which need not be in the registry."""
    return _detected(inputs, lambda sized: _as(sized, dialect))


def _detected(
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
    shown = shown_fields(fitted, evidence, dialect)
    if "u" in fitted.sizes and "context_length" not in {*shown, *stated, *inputs.given}:
        shown["context_length"] = fitted.sizes["u"]
    require_agreement(inputs, evidence, shown, stated)
    read_fields = {field: value for field, (value, _) in stated.items()} | shown
    given_fields = {
        field: value for field, value in inputs.given.items() if field not in read_fields
    }
    known = {**read_fields, **given_fields}
    usual = usual_of(dialect.unsaid, [flax for flax, _ in evidence.dialect.views])
    if dialect.layout:
        usual["rotary_layout"] = dialect.layout
    unsaid = {field: value for field, value in usual.items() if field not in known}
    fields = {**known, **unsaid}
    assumed = {field: value for field, value in unsaid.items() if is_relevant(field, fields)}
    require_all(inputs, fitted, fields)
    report = Report(read_fields, given_fields, assumed)
    try:
        config = report.config
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    others = other_caveats(tuple(assumed), evidence, inputs.configs)
    settled = as_in_file(replace(evidence.dialect, layout=config.rotary_layout), config, shapes)
    return Detected(settled, fitted, replace(report, other_caveats=others))


def _try(dialect: Dialect, inputs: Inputs) -> Fit:
    """Settle and fit `dialect`, in the reading that explains most of the file."""
    fits = []
    for reading in (dialect, *dialect.readings):
        fits.append(_try_reading(reading, inputs))
        if not fits[-1].problems:
            return fits[-1]
    return min(fits, key=lambda fitted: len(fitted.problems) - fitted.claimed)


def _try_reading(dialect: Dialect, inputs: Inputs) -> Fit:
    """Settle and fit `dialect`, with the head counts that are stated or given."""
    try:
        unsettled = {*inputs.given, "context_length"}  # before the tensors show it
        stated = stated_fields(inputs.configs, dialect, inputs.path, unsettled)
    except UserError:
        stated = {}  # raised again for the dialect that is chosen
    stated.pop("head_dim", None)  # a wrong one would make every tensor look wrong
    values = {**{field: value for field, (value, _) in stated.items()}, **inputs.given}
    sizes = {axis: values[field] for field, axis in HEADS.items() if field in values}
    sizes |= inputs.widths
    if not dialect.grouped:
        sizes |= {"group": 1}
        sizes.pop("kv", None)
    return fit(settle(dialect, inputs.shapes), inputs.shapes, sizes)


def _named(inputs: Inputs, name: str) -> tuple[Fit, Evidence, Dialect]:
    """The fit, evidence and dialect for `name`, which the caller chose; "auto" proposes one."""
    return _as(inputs, _proposed(inputs) if name == "auto" else named(name))


def _as(inputs: Inputs, dialect: Dialect) -> tuple[Fit, Evidence, Dialect]:
    """The fit and the evidence for `dialect`; raises Stranger if it does not explain the file."""
    fitted = _try(dialect, inputs)
    if fitted.problems:
        raise Stranger(why_strange(inputs, [fitted]))
    return fitted, weigh(fitted.dialect, fitted.sizes, inputs.read), fitted.dialect


def _proposed(inputs: Inputs) -> Dialect:
    proposal = propose(inputs.shapes)
    if proposal.dialect is None:
        raise UserError(
            f"{inputs.path}: no GPT can be seen in its tensors: {in_a_row(proposal.problems)}."
        )
    return proposal.dialect


def _of_registry(inputs: Inputs) -> tuple[Fit, Evidence, Dialect]:
    """The fit, evidence and dialect of the class in the registry that explains all tensors.

    Example: a file with nanoGPT's names fits nanogpt and its twins, which are build-nanogpt, mingpt
    and makemore. They have the same names, so that the values are weighed once, for nanogpt. If
    these show a mask and a head that is not tied, which are the marks of mingpt, the dialect is
    mingpt, with the rows that the values have decided.
    """
    fits = _explaining(inputs)
    weighed = _weighed(fits, inputs)
    _require_one_reading(fits, weighed, inputs)
    name = _best_marked(fits, next(iter(weighed.values())), inputs)
    evidence = weighed[name if name in weighed else DIALECTS[name].twin]
    dialect = replace(fits[name].dialect, rows=evidence.dialect.rows)
    return fits[name], replace(evidence, dialect=dialect), fits[name].dialect


def _weighed(fits: Mapping[str, Fit], inputs: Inputs) -> dict[str, Evidence]:
    """The evidence of the values for each of `fits`, except for twins of another one of them.

    Twins are classes whose files have the same names, so that the values, which may be large, are
    read once.
    """
    return {
        name: weigh(fitted.dialect, fitted.sizes, inputs.read)
        for name, fitted in fits.items()
        if fitted.dialect.twin not in fits
    }


def _require_one_reading(
    fits: Mapping[str, Fit], weighed: Mapping[str, Evidence], inputs: Inputs
) -> None:
    """Raise UserError if two of the `weighed` dialects take a tensor for different parameters."""
    tables = [meanings(one.dialect, fits[name].sizes) for name, one in weighed.items()]
    if any(table != tables[0] for table in tables):
        raise UserError(
            f"{inputs.path}: its tensors fit the dialects {' and '.join(weighed)}; "
            "choose one with --dialect."
        )


def _explaining(inputs: Inputs) -> dict[str, Fit]:
    """The fits that explain all tensors: of classes where there is one, else of families."""
    dialects = candidates(inputs)
    fits = _fits(plausible(dialects, inputs.shapes), inputs)
    classes = {name: fitted for name, fitted in fits.items() if not fitted.dialect.family}
    if is_part(classes.values(), inputs.shapes):
        # Part of a known class's file: a family could read it as a different function.
        fits, dialects = classes, [dialect for dialect in dialects if not dialect.family]
    whole = {name: fitted for name, fitted in fits.items() if not fitted.problems}
    if not whole:
        raise Stranger(why_strange(inputs, list(_fits(dialects, inputs).values())))
    for name in [name for name, fitted in whole.items() if fitted.dialect.yields_to in whole]:
        del whole[name]
    return {name: fitted for name, fitted in whole.items() if name in classes} or whole


def _fits(dialects: Iterable[Dialect], inputs: Inputs) -> dict[str, Fit]:
    return {dialect.name: _try(dialect, inputs) for dialect in dialects}


def _best_marked(fits: Mapping[str, Fit], evidence: Evidence, inputs: Inputs) -> str:
    """The dialect of `fits` to choose among those whose files have the same names.

    It is the one with most marks (`Dialect.told_by`) if all of them are in the file; if there is
    none, the class of which the others are twins.
    """
    keys = {key for config in inputs.configs.values() for key in config}
    marks = evidence.marks | keys
    marked = [name for name in fits if DIALECTS[name].told_by and DIALECTS[name].told_by <= marks]
    if marked:
        return max(marked, key=lambda name: len(DIALECTS[name].told_by))
    return min(fits, key=lambda name: bool(DIALECTS[name].twin))
