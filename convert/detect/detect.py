"""Detects the dialect and the ModelConfig of a file, and reports the source of each field."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jaxgpt.config import ModelConfig
from jaxgpt.errors import UserError, divisors, in_a_row
from jaxgpt.settings import check

from ..dialects import DIALECTS, named
from ..names.config_words import CLASS, said
from ..names.unsupported import reasons
from ..rows.dialect import EMBEDDING, FIELDS, Dialect, Row
from ..rows.fit import Fit, fit, joint_width, meanings, parameter_rows
from ..rows.resolve import settle
from .by_structure import propose
from .report import NO_TABLE, Report, caveats
from .values import Evidence, weigh

Shapes = Mapping[str, tuple[int, ...]]
Configs = Mapping[str, Mapping[str, Any]]
LONGEST = 2**22  # largest context length accepted without a position table
AXES = {field: axis for axis, field in FIELDS.items()}


@dataclass(frozen=True)
class Detected:
    """The result of detection."""

    dialect: Dialect  # settled for this file
    fit: Fit
    report: Report


class Stranger(UserError):
    """No dialect explains these tensors."""


class Asked(UserError):
    """A field without a usual value is missing: the caller must set it."""

    def __init__(self, field: str, problem: str):
        super().__init__(problem)
        self.field = field


@dataclass(frozen=True)
class Inputs:
    """The inputs of detection: the tensors and configs of a file, and the fields that are given."""

    shapes: Shapes
    read: Callable[[str], np.ndarray]
    path: object
    given: Mapping[str, Any]
    configs: Configs  # by name; stored with the tensors, in the file or in its folder


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
    fitted, evidence, dialect = _named(inputs, name) if name else _fitting(inputs)
    if evidence.problems:
        raise UserError(f"{path}: {in_a_row(evidence.problems)}.")
    shown = _shown(fitted, evidence, dialect)
    stated = said(inputs.configs, dialect, path, inputs.given)
    _require_agreement(inputs, evidence, shown, stated)
    read_fields = {field: value for field, (value, _) in stated.items()} | shown
    given_fields = {
        field: value for field, value in inputs.given.items() if field not in read_fields
    }
    assumed = {
        field: value
        for field, value in dialect.unsaid.items()
        if field not in {**read_fields, **given_fields}
    }
    _require_all(inputs, fitted, {**read_fields, **given_fields, **assumed})
    report = Report(read_fields, given_fields, assumed)
    try:
        report.config  # noqa: B018
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    report = replace(
        report, caveats=caveats(report, evidence.dialect.beware, evidence.hints, inputs.configs)
    )
    return Detected(evidence.dialect, fitted, report)


def _require_agreement(
    inputs: Inputs,
    evidence: Evidence,
    shown: Mapping[str, Any],
    stated: Mapping[str, tuple[Any, str]],
) -> None:
    """Refuse given or stated fields that contradict the tensors or one another."""
    contradictions = []
    repeated = (
        sum(isinstance(row, Row) and row.flax == EMBEDDING for row in evidence.dialect.rows) > 1
    )
    if inputs.given.get("final_norm") is False and "final_norm" not in shown:
        contradictions.append(
            "final_norm = False was given, but the file has one; if it is never applied, say unused"
        )
    if inputs.given.get("positions") == "learned" and "positions" not in shown:
        contradictions.append("positions = learned was given, but the file has no table of them")
    for field, value in inputs.given.items():
        others = [("the tensors show", shown[field])] if field in shown else []
        others += [(f"{stated[field][1]} says", stated[field][0])] if field in stated else []
        contradictions += [
            f"{field} = {value} was given, but {where} {other}"
            for where, other in others
            if value != other
        ]
    for field, (value, where) in stated.items():
        # A head equal to the embedding computes the same, tied or not, and stored sinusoids can be
        # extended beyond the context.
        equal = field == "tied" and repeated
        longer = (
            field == "context_length" and shown.get("positions_stored") and value < shown[field]
        )
        harmless = equal or longer or where.startswith(CLASS)
        if field in shown and shown[field] != value and not harmless:
            contradictions.append(
                f"{where} says {field} = {value}, but the tensors show {shown[field]}"
            )
    if contradictions:
        way = (
            "--ignore-config leaves out the config"
            if stated
            else "Leave out what the file itself says"
        )
        raise UserError(f"{inputs.path}: {'; '.join(contradictions)}. {way}.")


def _try(dialect: Dialect, inputs: Inputs) -> Fit:
    """Settle and fit `dialect`, with the head counts that are stated or given."""
    try:
        stated = {
            field: value
            for field, (value, _) in said(
                inputs.configs, dialect, inputs.path, inputs.given
            ).items()
        }
    except UserError:
        stated = {}  # raised again for the dialect that is chosen
    stated.pop("head_dim", None)  # a wrong one would make every tensor look wrong
    sizes = {
        AXES[field]: n
        for field, n in {**stated, **inputs.given}.items()
        if field in ("num_heads", "head_dim")
    }
    return fit(settle(dialect, inputs.shapes), inputs.shapes, sizes)


def _named(inputs: Inputs, name: str) -> tuple[Fit, Evidence, Dialect]:
    """The fit, evidence and dialect for `name`, which the caller chose; "auto" proposes one."""
    dialect = _proposed(inputs) if name == "auto" else named(name)
    fitted = _try(dialect, inputs)
    if fitted.problems:
        raise Stranger(_stranger(inputs, [fitted]))
    return fitted, weigh(fitted.dialect, fitted.sizes, inputs.read), dialect


def _proposed(inputs: Inputs) -> Dialect:
    proposal = propose(inputs.shapes)
    if proposal.dialect is None:
        raise UserError(
            f"{inputs.path}: no GPT can be seen in its tensors: {in_a_row(proposal.problems)}."
        )
    return proposal.dialect


def _fitting(inputs: Inputs) -> tuple[Fit, Evidence, Dialect]:
    """The fit, evidence and dialect of the class that explains all tensors."""
    fits = {dialect.name: _try(dialect, inputs) for dialect in DIALECTS.values()}
    classes = {name: fitted for name, fitted in fits.items() if not fitted.dialect.family}
    if any(fitted.claimed == len(inputs.shapes) and fitted.lacking for fitted in classes.values()):
        # Part of a known class's file: a family could read it as a different function.
        fits = classes
    whole = {name: fitted for name, fitted in fits.items() if not fitted.problems}
    if not whole:
        raise Stranger(_stranger(inputs, list(fits.values())))
    whole = {name: fitted for name, fitted in whole.items() if not fitted.dialect.family} or whole
    # Twins have the same rows, so the values, which may be large, are read once for both.
    weighed = {
        name: weigh(fitted.dialect, fitted.sizes, inputs.read)
        for name, fitted in whole.items()
        if fitted.dialect.twin not in whole
    }
    tables = [meanings(one.dialect, whole[name].sizes) for name, one in weighed.items()]
    if any(table != tables[0] for table in tables):
        raise UserError(
            f"{inputs.path}: its tensors fit the dialects {' and '.join(weighed)}; "
            "choose one with --dialect."
        )
    marks = next(iter(weighed.values())).told | {
        key for config in inputs.configs.values() for key in config
    }
    told = [name for name in whole if DIALECTS[name].told_by and DIALECTS[name].told_by <= marks]
    chosen = max(told, key=lambda name: len(DIALECTS[name].told_by), default="")
    chosen = chosen or min(whole, key=lambda name: bool(DIALECTS[name].twin))
    evidence = weighed[chosen if chosen in weighed else DIALECTS[chosen].twin]
    dialect = replace(whole[chosen].dialect, rows=evidence.dialect.rows)
    return whole[chosen], replace(evidence, dialect=dialect), DIALECTS[chosen]


def _stranger(inputs: Inputs, fits: list[Fit]) -> str:
    """The error for a file that no fit explains: names a known architecture or the nearest fit."""
    if foreign := reasons(inputs.shapes):
        return (
            f"{inputs.path}: {in_a_row(foreign)}. Only decoders that look at one text, from left "
            "to right, have a place here."
        )
    nearest = min(
        fits, key=lambda fitted: (len(fitted.problems) - fitted.claimed, bool(fitted.dialect.twin))
    )
    wrong = in_a_row(nearest.problems, most=1000 if 2 * nearest.claimed > len(inputs.shapes) else 8)
    text = (
        f"{inputs.path}: its {len(inputs.shapes)} tensors fit "
        f"{'no known dialect. The nearest is' if len(fits) > 1 else 'not'} {nearest.dialect.name} "
        f"({nearest.dialect.about}), for which {len(nearest.problems)} things are wrong: {wrong}."
    )
    if len(fits) > 1 and propose(inputs.shapes).dialect:
        text += (
            " By its structure it could be a GPT: jaxgpt-convert inspect with --dialect auto shows "
            "how it would be read; to-flax and verify take that only with --dialect auto."
        )
    return text


def _require_all(inputs: Inputs, fitted: Fit, fields: Mapping[str, Any]) -> None:
    """Require the fields that have no usual value, and a context length within LONGEST."""
    if "num_heads" not in fields or "k" not in fitted.sizes:
        sizes = {axis: n for axis, n in fitted.sizes.items() if axis not in ("head", "k")}
        width = joint_width(fitted.dialect, inputs.shapes, sizes) or 0
        why = (
            f"{fields['num_heads']} does not divide"
            if "num_heads" in fields
            else "no tensor shows how they divide"
        )
        raise Asked(
            "num_heads",
            f"{inputs.path}: queries, keys and values are {width} wide, all heads together, and "
            f"{why} among heads. Head counts that fit are {divisors(width)}: say which with "
            "--set num_heads=N.",
        )
    if "context_length" not in fields:
        raise Asked(
            "context_length",
            f"{inputs.path}: {NO_TABLE}. Nothing shows how long the context is either: say it with "
            "--set context_length=N.",
        )
    if fields["context_length"] > LONGEST:
        raise UserError(
            f"{inputs.path}: a context length of {fields['context_length']} is more than {LONGEST}."
        )


def _shown(fitted: Fit, evidence: Evidence, dialect: Dialect) -> dict[str, Any]:
    """The fields that the tensors show, and those that the dialect fixes."""
    sizes = dict(fitted.sizes)
    offset = dialect.fixed.get("positions_offset", 0)
    if "p" in sizes:
        sizes["t"] = sizes["p"] - offset
    fields = {field: sizes[axis] for axis, field in FIELDS.items() if axis in sizes}
    for field, axis in (("num_heads", "head"), ("head_dim", "k")):
        if axis in fitted.stated:
            fields.pop(field, None)
    paths = set(
        parameter_rows(
            evidence.dialect, {axis: fitted.sizes.get(axis, 0) for axis in (*FIELDS, "qkv")}
        )
    )
    return (
        fields
        | _presence(paths)
        | {"positions_offset": offset}
        | evidence.read
        | dict(dialect.fixed)
    )


def _presence(paths: set[str]) -> dict[str, Any]:
    """The fields that the presence of tensors shows; a norm that is stored may still be unused."""
    stored = "pos_embedding/embedding" in paths
    return {
        "qkv_bias": "blocks/attn/qkv/bias" in paths,
        "attention_out": "blocks/attn/out/kernel" in paths,
        "attention_out_bias": "blocks/attn/out/bias" in paths,
        "mlp_bias": "blocks/mlp/up/bias" in paths,
        "head_bias": "head/bias" in paths,
        "norm_bias": "blocks/norm1/bias" in paths,
        "tied": "head/kernel" not in paths,
        **({} if stored else {"positions_stored": False}),
        **({} if "final_norm/scale" in paths else {"final_norm": False}),
    }
